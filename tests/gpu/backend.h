// The devices that the suite's tests run on: CUDA's in gpu_test, simulated ones in gpu_on_sim_test.
// The tests are the same; what differs between the two is here, and one of cuda_backend.cc and
// sim_backend.cc is linked.
//
// Called by the tests' main thread, where not said otherwise.
#ifndef SCONCE_TESTS_GPU_BACKEND_H_
#define SCONCE_TESTS_GPU_BACKEND_H_

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace sconce::gpu {

// Makes the devices ready, once in a process; FAILED_PRECONDITION with the reason where there are
// none.
absl::StatusOr<std::vector<c10::Device>> StartDevices();

// Whether the devices are simulated: they give the CPU's bits, in every precision.
bool IsSimulated();

// Whether the device has TF32's coarser products.
bool HasTf32(c10::Device device);

// Queues `body` as work of the stream: what is queued after it waits until it has returned. It runs
// on another thread and must not call the device. Any thread may call this.
void Queue(c10::Stream stream, std::function<void()> body);

// Lets `device` hold about `bytes` where its size can be chosen; a real GPU stays as large as it
// is.
void LimitMemory(c10::Device device, int64_t bytes);

// Memory of a device that belongs to another process, as a client's does.
class ForeignMemory {
 public:
  virtual ~ForeignMemory() = default;
  // What Accelerator::OpenShared takes.
  virtual const std::string& handle() const = 0;
  virtual void Write(int64_t offset, const std::string& bytes) = 0;
  virtual std::string Read(int64_t offset, int64_t size_bytes) = 0;
};
std::unique_ptr<ForeignMemory> NewForeignMemory(c10::Device device, int64_t size_bytes);

// Where this process was started to be the other one: does its work and gives its exit status.
std::optional<int> RunAsOwner(int argc, char** argv);

// Waits for all work, gives cached memory back, and takes limits back.
void ResetDevices();

}  // namespace sconce::gpu

#endif  // SCONCE_TESTS_GPU_BACKEND_H_
