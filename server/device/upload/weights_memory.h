// HostWeightsMemory: memory of the host for the weights of one load. Large tensors lie side by side
// in one range of addresses, so that the kernel can give it in huge pages: the first touch of fresh
// memory costs more than reading into it does. Each of them goes back to the system by itself, once
// nobody has it.
//
// Thread-safe. Owned by a load; the memory lives as long as its tensors.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_WEIGHTS_MEMORY_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_WEIGHTS_MEMORY_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "server/base/mutex.h"

namespace sconce {

class HostWeightsMemory {
 public:
  // For `tensors` tensors of `size_bytes` together at most; takes addresses, not memory. Throws
  // std::bad_alloc.
  HostWeightsMemory(int64_t size_bytes, size_t tensors);

  // Bytes, 64-byte aligned. Throws std::bad_alloc, or what LibTorch throws.
  at::Tensor Take(int64_t size_bytes);

 private:
  class Range;

  Mutex mutex_;
  const std::shared_ptr<Range> range_;
  size_t used_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_WEIGHTS_MEMORY_H_
