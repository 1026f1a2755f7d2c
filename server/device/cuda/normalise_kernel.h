// The CUDA kernel of Normalise (server/device/execution/normalise.h), behind raw pointers, so that
// nvcc sees nothing of LibTorch.

#ifndef SCONCE_SERVER_DEVICE_CUDA_NORMALISE_KERNEL_H_
#define SCONCE_SERVER_DEVICE_CUDA_NORMALISE_KERNEL_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "server/device/execution/normalise_index.h"

namespace sconce {

enum class NormaliseType { kFp32, kFp16, kBf16 };

// Queues the kernel on `stream`. All pointers are of the current device; `plan` says what is where,
// its run length aside. The result tells of the launch, not of the run.
cudaError_t LaunchNormalise(const uint8_t* source, const float* scale, const float* bias,
                            NormalisePlan<uint64_t> plan, NormaliseType type, void* target,
                            cudaStream_t stream);

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_CUDA_NORMALISE_KERNEL_H_
