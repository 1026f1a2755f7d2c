// The suite on CUDA devices.
#include <ATen/DeviceAccelerator.h>
#include <cuda_runtime_api.h>

#include <memory>
#include <stdexcept>

#include "server/device/device_set.h"
#include "tests/gpu/backend.h"

namespace sconce::gpu {
namespace {

std::vector<c10::Device>& Started() {
  static std::vector<c10::Device> devices;
  return devices;
}

void CUDART_CB RunBody(void* body) {
  const std::unique_ptr<std::function<void()>> owned(static_cast<std::function<void()>*>(body));
  (*owned)();
}

}  // namespace

absl::StatusOr<std::vector<c10::Device>> StartDevices() {
  auto set = DeviceSet::Open("cuda");
  if (!set.ok()) return set.status();
  Started() = set->devices();
  return Started();
}

bool IsSimulated() { return false; }

bool HasTf32(c10::Device device) {
  int major = 0;
  return cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index()) ==
             cudaSuccess &&
         major >= 8;
}

void Queue(c10::Stream stream, std::function<void()> body) {
  const auto native = static_cast<cudaStream_t>(stream.native_handle());
  auto owned = std::make_unique<std::function<void()>>(std::move(body));
  const cudaError_t error = cudaLaunchHostFunc(native, RunBody, owned.get());
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
  static_cast<void>(owned.release());  // RunBody's now
}

void LimitMemory(c10::Device, int64_t) {}

void ResetDevices() {
  for (const c10::Device device : Started()) at::accelerator::synchronizeDevice(device.index());
  at::accelerator::emptyCache();
}

}  // namespace sconce::gpu
