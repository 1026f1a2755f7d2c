// CudaAccelerator: what CUDA devices can do for the server beyond LibTorch's operators.

#ifndef SCONCE_SERVER_DEVICE_CUDA_CUDA_ACCELERATOR_H_
#define SCONCE_SERVER_DEVICE_CUDA_CUDA_ACCELERATOR_H_

#include <memory>
#include <string>

#include "server/device/accelerator.h"

namespace sconce {

// "0000:3b:00.0"; empty where CUDA does not say.
std::string PciBusIdOf(int index);

class CudaAccelerator : public Accelerator {
 public:
  int NumaNode(c10::Device device) const override;
  std::string PciBusId(c10::Device device) const override { return PciBusIdOf(device.index()); }
  absl::StatusOr<std::unique_ptr<Graph>> Capture(c10::Device device,
                                                 const std::function<void()>& body,
                                                 const Graph* beside) const override;
  bool Normalise(const at::Tensor& pixels, ImageLayout layout, const at::Tensor& scale,
                 const at::Tensor& bias, at::Tensor& out) const override;
  absl::StatusOr<DeviceBytes> OpenShared(c10::Device device, const std::string& handle,
                                         int64_t size_bytes) const override;
  absl::StatusOr<std::unique_ptr<DirectFile>> OpenDirect(c10::Device device,
                                                         const File& file) const override;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_CUDA_CUDA_ACCELERATOR_H_
