#include "server/device/cuda/shared_memory.h"

#include <c10/cuda/CUDAGuard.h>
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"

namespace sconce {
namespace {

absl::Status ToStatus(cudaError_t error, const std::string& what) {
  cudaGetLastError();  // or the next call would report it again
  const std::string message = absl::StrCat(what, ": ", cudaGetErrorString(error));
  switch (error) {
    case cudaErrorInvalidValue:
    case cudaErrorInvalidResourceHandle:
    case cudaErrorDeviceUninitialized:  // the handle is of this very process
    case cudaErrorMapBufferObjectFailed:
    case cudaErrorPeerAccessUnsupported:
      return absl::InvalidArgumentError(message);
    case cudaErrorMemoryAllocation:
    case cudaErrorTooManyPeers:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::InternalError(message);
  }
}

// The bytes from `address` to the end of its allocation. Only the driver's own interface says, and
// the runtime finds that without linking with the driver.
absl::StatusOr<int64_t> BytesFrom(void* address) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuMemGetAddressRange", &function,
                                                             12000, cudaEnableDefault, &found);
  if (error != cudaSuccess) return ToStatus(error, "cuMemGetAddressRange");
  if (found != cudaDriverEntryPointSuccess || function == nullptr) {
    return absl::InternalError("the driver has no cuMemGetAddressRange");
  }
  CUdeviceptr base = 0;
  size_t size = 0;
  const auto pointer = reinterpret_cast<CUdeviceptr>(address);
  const CUresult result =
      reinterpret_cast<decltype(&cuMemGetAddressRange_v2)>(function)(&base, &size, pointer);
  if (result != CUDA_SUCCESS) {
    return absl::InternalError(
        absl::StrCat("cuMemGetAddressRange: error ", static_cast<int>(result)));
  }
  return static_cast<int64_t>(size - (pointer - base));
}

// On a device that has failed this fails, too, and nothing more can be done.
void Close(int device, void* address) {
  int before = 0;
  if (cudaGetDevice(&before) != cudaSuccess || cudaSetDevice(device) != cudaSuccess ||
      cudaIpcCloseMemHandle(address) != cudaSuccess || cudaSetDevice(before) != cudaSuccess) {
    cudaGetLastError();
  }
}

}  // namespace

absl::StatusOr<DeviceBytes> OpenCudaShared(c10::Device device, const std::string& handle,
                                           int64_t size_bytes) {
  cudaIpcMemHandle_t exported;
  if (handle.size() != sizeof exported) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected a handle of ", sizeof exported, " bytes, got ", handle.size()));
  }
  std::memcpy(&exported, handle.data(), sizeof exported);
  const c10::cuda::CUDAGuard on_device(device);
  void* address = nullptr;
  const cudaError_t error =
      cudaIpcOpenMemHandle(&address, exported, cudaIpcMemLazyEnablePeerAccess);
  if (error != cudaSuccess) {
    return ToStatus(error, absl::StrCat("opening shared memory on ", device.str()));
  }
  DeviceBytes bytes;
  bytes.device = device.str();
  bytes.size_bytes = size_bytes;
  bytes.address =
      std::shared_ptr<void>(address, [device](void* opened) { Close(device.index(), opened); });

  cudaPointerAttributes attributes = {};
  if (const cudaError_t asked = cudaPointerGetAttributes(&attributes, address);
      asked != cudaSuccess) {
    return ToStatus(asked, "cudaPointerGetAttributes");
  }
  if (attributes.device != device.index()) {
    return absl::InvalidArgumentError(absl::StrCat("expected memory on ", device.str(),
                                                   ", got memory on cuda:", attributes.device));
  }
  const absl::StatusOr<int64_t> there = BytesFrom(address);
  if (!there.ok()) return there.status();
  if (*there < size_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected shared memory of at least ", size_bytes, " bytes, got ", *there));
  }
  return bytes;
}

}  // namespace sconce
