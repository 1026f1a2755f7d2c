#include "server/device/cuda/cuda_accelerator.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include "server/device/cuda/cuda_graph.h"
#include "server/device/cuda/direct_storage.h"
#include "server/device/cuda/normalise_kernel.h"
#include "server/device/cuda/shared_memory.h"
#include "server/device/nvidia/pci.h"

namespace sconce {

std::string PciBusIdOf(int index) {
  char bus_id[32] = "";
  if (cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, index) != cudaSuccess) {
    cudaGetLastError();
    return "";
  }
  return bus_id;
}

int CudaAccelerator::NumaNode(c10::Device device) const {
  const std::string bus_id = PciBusIdOf(device.index());
  return bus_id.empty() ? -1 : NumaNodeOfPciDevice(bus_id);
}

absl::StatusOr<std::unique_ptr<Accelerator::Graph>> CudaAccelerator::Capture(
    c10::Device device, const std::function<void()>& body, const Graph* beside) const {
  return CaptureCudaGraph(device, body, beside);
}

bool CudaAccelerator::Normalise(const at::Tensor& pixels, ImageLayout layout,
                                const at::Tensor& scale, const at::Tensor& bias,
                                at::Tensor& out) const {
  NormaliseType type = NormaliseType::kFp32;
  if (out.scalar_type() == at::kHalf) {
    type = NormaliseType::kFp16;
  } else if (out.scalar_type() == at::kBFloat16) {
    type = NormaliseType::kBf16;
  } else if (out.scalar_type() != at::kFloat) {
    return false;
  }
  NormalisePlan<uint64_t> plan;
  plan.images = static_cast<uint64_t>(out.size(0));
  plan.channels = static_cast<uint64_t>(out.size(1));
  plan.pixels = static_cast<uint64_t>(out.size(2) * out.size(3));
  plan.source_channels_last = layout == ImageLayout::kNhwc;
  plan.target_channels_last = !out.is_contiguous();
  const c10::cuda::CUDAGuard on_device(out.device());
  C10_CUDA_CHECK(LaunchNormalise(pixels.const_data_ptr<uint8_t>(), scale.const_data_ptr<float>(),
                                 bias.const_data_ptr<float>(), plan, type, out.data_ptr(),
                                 c10::cuda::getCurrentCUDAStream(out.device().index())));
  return true;
}

absl::StatusOr<DeviceBytes> CudaAccelerator::OpenShared(c10::Device device,
                                                        const std::string& handle,
                                                        int64_t size_bytes) const {
  return OpenCudaShared(device, handle, size_bytes);
}

absl::StatusOr<std::unique_ptr<Accelerator::DirectFile>> CudaAccelerator::OpenDirect(
    c10::Device device, const File& file) const {
  return OpenDirectStorage(device, file);
}

}  // namespace sconce
