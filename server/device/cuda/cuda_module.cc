#include "server/device/cuda/cuda_module.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include "server/device/cuda/cuda_accelerator.h"
#include "server/device/nvidia/gpu_architecture.h"

namespace {

template <size_t kSize>
void Write(const std::string& text, char (&buffer)[kSize]) {
  std::snprintf(buffer, kSize, "%s", text.c_str());
}

// The first line of what LibTorch says when it computes on the device.
std::string ComputeError(int index) {
  try {
    const at::Tensor one = at::ones({1}, at::TensorOptions().device(at::kCUDA, index));
    if (one.add(1).item<float>() == 2) return "";
    return "1 + 1 is not 2";
  } catch (const std::exception& e) {
    const std::string what = e.what();
    return what.substr(0, what.find('\n'));
  }
}

}  // namespace

extern "C" void SconceProbeCuda(SconceCudaProbe* probe) {
  *probe = SconceCudaProbe{};
  cudaDriverGetVersion(&probe->driver_version);
  cudaRuntimeGetVersion(&probe->runtime_version);
  int count = 0;
  const cudaError_t error = c10::cuda::GetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();  // or the next call would report it again
    Write(cudaGetErrorString(error), probe->error);
    return;
  }
  probe->device_count = count;
}

extern "C" const sconce::Accelerator* SconceCudaAccelerator() {
  static const sconce::CudaAccelerator accelerator;
  return &accelerator;
}

extern "C" void SconceDescribeCudaDevice(int32_t index, SconceCudaDevice* device) {
  *device = SconceCudaDevice{};
  cudaDeviceProp properties = {};
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, index); error != cudaSuccess) {
    cudaGetLastError();
    Write(cudaGetErrorString(error), device->torch_error);
    return;
  }
  Write(properties.name, device->name);
  Write(sconce::PciBusIdOf(index), device->pci_bus_id);
  device->capability_major = properties.major;
  device->capability_minor = properties.minor;
  device->is_covered =
      sconce::IsArchitectureCovered(SconceCudaArchitectures(), properties.major, properties.minor);
  device->total_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  Write(ComputeError(index), device->torch_error);
  device->free_bytes = -1;
  // After the device was found to work: the question alone takes a context on it.
  const c10::cuda::CUDAGuard on_device(static_cast<c10::DeviceIndex>(index));
  size_t free_bytes = 0, total_bytes = 0;
  if (cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess) {
    device->free_bytes = static_cast<int64_t>(free_bytes);
  } else {
    cudaGetLastError();
  }
}

extern "C" const char* SconceCudaArchitectures() { return SCONCE_CUDA_ARCHITECTURES; }
