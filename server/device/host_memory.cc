#include "server/device/host_memory.h"

#include <ATen/core/CachingHostAllocator.h>
#include <ATen/ops/empty.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/DeviceGuard.h>
#include <c10/util/Exception.h>

#include <algorithm>

namespace sconce {

at::Tensor HostMemoryFor(c10::Device device, int64_t size_bytes) {
  // A pointer into it is wanted even where there are no bytes.
  const int64_t size = std::max<int64_t>(size_bytes, 1);
  const auto options = at::TensorOptions().dtype(c10::kByte);
  if (device.is_cpu()) return at::empty({size}, options);
  try {
    return at::empty({size}, options.pinned_memory(true));
  } catch (const c10::AcceleratorError&) {
    // Unlike the device's, the host's allocator keeps what nobody uses when memory runs out.
    at::getHostAllocator(device.type())->empty_cache();
    return at::empty({size}, options.pinned_memory(true));
  }
}

void ReleaseCache(c10::Device device) {
  if (device.is_cpu()) return;
  try {
    const c10::DeviceGuard guard(device);
    at::getDeviceAllocator(device.type())->emptyCache();
    at::getHostAllocator(device.type())->empty_cache();
  } catch (const c10::Error&) {
    // CUDA's allocator keeps its memory while another thread captures a graph; what does not fit
    // without it is told by the next allocation.
  }
}

}  // namespace sconce
