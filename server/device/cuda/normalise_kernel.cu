#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "server/device/cuda/normalise_kernel.h"

namespace sconce {
namespace {

// 8 pixels are one load of 8 bytes and, as 16-bit numbers, one store of 16.
constexpr unsigned kRunLength = 8;
constexpr unsigned kThreads = 256;
// The grid's stride goes over the rest; more blocks than any GPU holds at a time gain nothing.
constexpr uint64_t kMaxBlocks = 1 << 14;

template <typename T>
__device__ T Rounded(float value);
template <>
__device__ float Rounded(float value) {
  return value;
}
template <>
__device__ __half Rounded(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __nv_bfloat16 Rounded(float value) {
  return __float2bfloat16_rn(value);
}

template <typename T>
struct alignas(16) RunOf {
  T values[kRunLength];
};

__device__ bool IsAligned(const void* address, unsigned alignment) {
  return reinterpret_cast<uintptr_t>(address) % alignment == 0;
}

template <typename Index>
__device__ void LoadPixels(const uint8_t* source, const NormaliseRun<Index>& run,
                           uint8_t (&pixels)[kRunLength]) {
  source += run.source;
  if (run.length == kRunLength && run.source_step == 1 && IsAligned(source, sizeof(uint2))) {
    const uint2 words = *reinterpret_cast<const uint2*>(source);
#pragma unroll
    for (unsigned k = 0; k < kRunLength; ++k) {
      pixels[k] = static_cast<uint8_t>((k < 4 ? words.x : words.y) >> (k % 4 * 8));
    }
    return;
  }
#pragma unroll
  for (unsigned k = 0; k < kRunLength; ++k) {
    pixels[k] = k < run.length ? source[k * run.source_step] : 0;
  }
}

template <typename T, typename Index>
__device__ void StoreRun(const RunOf<T>& values, const NormaliseRun<Index>& run, T* target) {
  target += run.target;
  if (run.length == kRunLength && run.target_step == 1 && IsAligned(target, sizeof(uint4))) {
#pragma unroll
    for (unsigned word = 0; word < sizeof values / sizeof(uint4); ++word) {
      reinterpret_cast<uint4*>(target)[word] = reinterpret_cast<const uint4*>(&values)[word];
    }
    return;
  }
#pragma unroll
  for (unsigned k = 0; k < kRunLength; ++k) {
    if (k < run.length) target[k * run.target_step] = values.values[k];
  }
}

template <typename T, typename Index>
__global__ void __launch_bounds__(kThreads)
    NormaliseRuns(const uint8_t* __restrict__ source, const float* __restrict__ scale,
                  const float* __restrict__ bias, NormalisePlan<Index> plan, T* target) {
  const Index runs = CountRuns(plan);
  const Index stride = static_cast<Index>(gridDim.x) * blockDim.x;
  for (Index i = static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x; i < runs; i += stride) {
    const NormaliseRun<Index> run = RunAt(plan, i);
    uint8_t pixels[kRunLength];
    LoadPixels(source, run, pixels);
    RunOf<T> values;
    Index channel = run.channel;
#pragma unroll
    for (unsigned k = 0; k < kRunLength; ++k) {
      // Each rounded, never fused, as on the CPU.
      const float product = __fmul_rn(static_cast<float>(pixels[k]), scale[channel]);
      values.values[k] = Rounded<T>(__fadd_rn(product, bias[channel]));
      channel += run.channel_step;
      if (channel == plan.channels) channel = 0;
    }
    StoreRun(values, run, target);
  }
}

template <typename T, typename Index>
cudaError_t Launch(const uint8_t* source, const float* scale, const float* bias,
                   const NormalisePlan<uint64_t>& plan, void* target, cudaStream_t stream) {
  const NormalisePlan<Index> narrow = {
      static_cast<Index>(plan.images), static_cast<Index>(plan.channels),
      static_cast<Index>(plan.pixels), plan.source_channels_last,
      plan.target_channels_last,       static_cast<Index>(plan.run_length)};
  const uint64_t runs = CountRuns(plan);
  const auto blocks =
      static_cast<unsigned>(std::min<uint64_t>((runs + kThreads - 1) / kThreads, kMaxBlocks));
  NormaliseRuns<T, Index>
      <<<blocks, kThreads, 0, stream>>>(source, scale, bias, narrow, static_cast<T*>(target));
  return cudaGetLastError();
}

template <typename T>
cudaError_t LaunchFor(const uint8_t* source, const float* scale, const float* bias,
                      const NormalisePlan<uint64_t>& plan, void* target, cudaStream_t stream) {
  // Indices go beyond the elements by one stride of the grid at most.
  const uint64_t reach = plan.images * plan.channels * plan.pixels +
                         plan.run_length * plan.channels + kMaxBlocks * kThreads;
  return reach < (uint64_t{1} << 32)
             ? Launch<T, uint32_t>(source, scale, bias, plan, target, stream)
             : Launch<T, uint64_t>(source, scale, bias, plan, target, stream);
}

}  // namespace

cudaError_t LaunchNormalise(const uint8_t* source, const float* scale, const float* bias,
                            NormalisePlan<uint64_t> plan, NormaliseType type, void* target,
                            cudaStream_t stream) {
  plan.run_length = kRunLength;
  if (CountRuns(plan) == 0) return cudaSuccess;
  switch (type) {
    case NormaliseType::kFp32:
      return LaunchFor<float>(source, scale, bias, plan, target, stream);
    case NormaliseType::kFp16:
      return LaunchFor<__half>(source, scale, bias, plan, target, stream);
    case NormaliseType::kBf16:
      return LaunchFor<__nv_bfloat16>(source, scale, bias, plan, target, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace sconce
