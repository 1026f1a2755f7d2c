// Host memory from and to which a device copies by itself. Pure functions, callable from any
// thread.

#ifndef SCONCE_SERVER_DEVICE_HOST_MEMORY_H_
#define SCONCE_SERVER_DEVICE_HOST_MEMORY_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>

namespace sconce {

// Bytes, page-locked unless `device` is the CPU. Throws what LibTorch throws.
at::Tensor HostMemoryFor(c10::Device device, int64_t size_bytes);

// Gives back what LibTorch's allocators keep for the device and nobody uses. On CUDA this waits for
// all that is queued, so it is for when memory ran out.
void ReleaseCache(c10::Device device);

// The distance between tensors that lie in one piece of memory, each 64-byte aligned.
constexpr int64_t AlignedSize(int64_t size_bytes) { return (size_bytes + 63) / 64 * 64; }

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_HOST_MEMORY_H_
