// Brings CUDA into the process: the driver's library, libsconce_cuda.so (server/device/cuda), and
// with it LibTorch's CUDA half. Nothing of it is loaded before LoadCuda is called.
//
// Thread-safe. What is loaded stays until the process ends.

#ifndef SCONCE_SERVER_DEVICE_NVIDIA_CUDA_LOADER_H_
#define SCONCE_SERVER_DEVICE_NVIDIA_CUDA_LOADER_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "server/device/cuda/cuda_module.h"

namespace sconce {

struct CudaModule {
  int device_count = 0;    // at least 1
  int driver_version = 0;  // 13000 = 13.0
  int runtime_version = 0;
  decltype(&SconceDescribeCudaDevice) describe_device = nullptr;
  decltype(&SconceCudaArchitectures) architectures = nullptr;
};

// Loads CUDA and registers its accelerator, at the first call; the result is the same for every
// call. FAILED_PRECONDITION with the reason where CUDA cannot be used. REQUIRES: nothing has asked
// LibTorch for CUDA before: an early "no" of at::hasCUDA() is final.
const absl::StatusOr<CudaModule>& LoadCuda();

// "13.0" for 13000.
std::string CudaVersionText(int version);

// What makes one expect CUDA on this machine, such as "/dev/nvidia0 is there"; empty where nothing
// does. Loads nothing but, perhaps, the driver's library.
std::string WhyCudaIsExpected();

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_NVIDIA_CUDA_LOADER_H_
