// DeviceSet: the devices this server places replicas on, chosen once at start from --device.
//
// Where a CUDA device is wanted, the CUDA half (libsconce_cuda.so, which brings libtorch_cuda) is
// loaded here, before anything else can ask LibTorch for CUDA: LibTorch looks its hooks up once,
// and an early "no" is final. A start on the CPU loads none of it.
//
// Immutable after Open; thread-safe. Owned by App.

#ifndef SCONCE_SERVER_DEVICE_DEVICE_SET_H_
#define SCONCE_SERVER_DEVICE_DEVICE_SET_H_

#include <c10/core/Device.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace sconce {

struct DeviceMemory {
  int64_t used_bytes = 0;
  int64_t total_bytes = 0;
};

class DeviceSet {
 public:
  // `wanted`: "auto" (the GPUs there are, else the CPU), "cpu", "cuda" (all GPUs), or a list such
  // as "cuda:0,cuda:1". INVALID_ARGUMENT for another text or a device that is not there;
  // FAILED_PRECONDITION where CUDA is wanted and cannot be had, with the reason.
  static absl::StatusOr<DeviceSet> Open(const std::string& wanted);

  // Never empty, no device twice.
  const std::vector<c10::Device>& devices() const { return devices_; }

  // Why "auto" chose what it did; one line for the log.
  const std::string& reason() const { return reason_; }

 private:
  std::vector<c10::Device> devices_;
  std::string reason_;
};

// For the CPU: the resident memory of this process and the machine's memory. For another device:
// all that is in use on it, by whomever, and its size.
absl::StatusOr<DeviceMemory> MemoryOf(c10::Device device);

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_DEVICE_SET_H_
