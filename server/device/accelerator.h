// Accelerator: what a kind of device can do beyond what LibTorch offers for every device. CUDA's is
// in libsconce_cuda.so (server/device/cuda); the simulated accelerator has one in tests. Where
// there is none, or it says no, the server does without: no graphs, LibTorch's operators in place
// of its own kernel, files read by the host.
//
// Immutable and thread-safe; lives as long as the process. Calls throw what LibTorch throws where
// they are not said to return a status.

#ifndef SCONCE_SERVER_DEVICE_ACCELERATOR_H_
#define SCONCE_SERVER_DEVICE_ACCELERATOR_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/file.h"
#include "server/device/execution_options.h"
#include "server/device/replica.h"

namespace sconce {

class Accelerator {
 public:
  // Work of the device that was captured once and can be queued again as a whole, on the same
  // memory. Not thread-safe. Destroyed when nothing of it is under way.
  class Graph {
   public:
    virtual ~Graph() = default;
    // Queues the work on the current stream.
    virtual void Replay() = 0;
    // Device memory that the graph keeps for itself.
    virtual int64_t size_bytes() const = 0;
  };

  // A file that a device reads by itself, past the host's memory. Thread-safe; goes before the file
  // it was made for.
  class DirectFile {
   public:
    virtual ~DirectFile() = default;
    // Fills the device's memory from `address` on with the file's bytes from `offset` on. Done when
    // it returns, in no stream's order. After an error the memory holds anything.
    virtual absl::Status Read(int64_t offset, void* address, int64_t size_bytes) const = 0;
  };

  virtual ~Accelerator() = default;

  // The NUMA node the device is attached to, -1 where that is unknown.
  virtual int NumaNode(c10::Device device) const = 0;

  // Where the device is on the PCI bus, "0000:3b:00.0", by which NVML knows it; empty where it is on
  // none.
  virtual std::string PciBusId(c10::Device) const { return ""; }

  // Captures what `body` queues on the stream that is current while it runs, without doing it; that
  // may be another stream than the caller's current one, which is not the default one. Other threads
  // may use the device meanwhile. What `body` throws, or does that cannot be captured, becomes the
  // status; the streams are usable afterwards. `beside`: null, or a graph of the same device that
  // is never under way at the same time, so that both may use the same memory.
  virtual absl::StatusOr<std::unique_ptr<Graph>> Capture(c10::Device device,
                                                         const std::function<void()>& body,
                                                         const Graph* beside) const = 0;

  // Normalises on the current stream. `pixels`: UINT8 [N, C, H, W] or [N, H, W, C] as
  // `normalisation` says, contiguous. `out`: [N, C, H, W] of FP32, FP16 or BF16, contiguous or
  // channels-last. `scale` and `bias` hold one FP32 per channel, on the device. False where there
  // is no kernel for that.
  virtual bool Normalise(const at::Tensor& pixels, ImageLayout layout, const at::Tensor& scale,
                         const at::Tensor& bias, at::Tensor& out) const = 0;

  // Opens memory of another process on `device`, from the handle its owner exported (for CUDA the
  // 64 bytes of a cudaIpcMemHandle_t), at least `size_bytes` long. INVALID_ARGUMENT where the
  // handle is none or is shorter; closed once the last owner is gone.
  virtual absl::StatusOr<DeviceBytes> OpenShared(c10::Device device, const std::string& handle,
                                                 int64_t size_bytes) const = 0;

  // An error says why `device` cannot read the file by itself.
  virtual absl::StatusOr<std::unique_ptr<DirectFile>> OpenDirect(c10::Device device,
                                                                 const File& file) const = 0;
};

// The one of that kind of device; null where there is none.
const Accelerator* FindAccelerator(c10::DeviceType type);

// REQUIRES: called once per type, before a replica is made.
void RegisterAccelerator(c10::DeviceType type, const Accelerator* accelerator);

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_ACCELERATOR_H_
