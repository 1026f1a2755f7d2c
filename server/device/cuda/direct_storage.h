// GPUDirect Storage: files read by a GPU itself, through NVIDIA's libcufile, which is looked for
// when it is asked for the first time. Callable from any thread.

#ifndef SCONCE_SERVER_DEVICE_CUDA_DIRECT_STORAGE_H_
#define SCONCE_SERVER_DEVICE_CUDA_DIRECT_STORAGE_H_

#include <c10/core/Device.h>

#include <memory>

#include "absl/status/statusor.h"
#include "server/base/file.h"
#include "server/device/accelerator.h"

namespace sconce {

// An error where the library, the driver or the file system has no such reads; the library's own
// stand-in for them, which copies through the host, is not used.
absl::StatusOr<std::unique_ptr<Accelerator::DirectFile>> OpenDirectStorage(c10::Device device,
                                                                           const File& file);

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_CUDA_DIRECT_STORAGE_H_
