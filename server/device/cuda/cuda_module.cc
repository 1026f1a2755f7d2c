#include "server/device/cuda/cuda_module.h"

#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>

#include <cstdio>

extern "C" void SconceProbeCuda(SconceCudaProbe* probe) {
  *probe = SconceCudaProbe{};
  cudaDriverGetVersion(&probe->driver_version);
  cudaRuntimeGetVersion(&probe->runtime_version);
  int count = 0;
  const cudaError_t error = c10::cuda::GetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();  // or the next call would report it again
    std::snprintf(probe->error, sizeof probe->error, "%s", cudaGetErrorString(error));
    return;
  }
  probe->device_count = count;
}
