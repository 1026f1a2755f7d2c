// Memory of another process on a CUDA device, opened by the handle that its owner exported.
// Thread-safe.

#ifndef SCONCE_SERVER_DEVICE_CUDA_SHARED_MEMORY_H_
#define SCONCE_SERVER_DEVICE_CUDA_SHARED_MEMORY_H_

#include <c10/core/Device.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "server/device/replica.h"

namespace sconce {

// As Accelerator::OpenShared. A handle may be opened more than once: CUDA counts.
absl::StatusOr<DeviceBytes> OpenCudaShared(c10::Device device, const std::string& handle,
                                           int64_t size_bytes);

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_CUDA_SHARED_MEMORY_H_
