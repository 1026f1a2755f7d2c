#include "server/device/execution/output_pool.h"

#include <ATen/core/Tensor.h>

#include <map>
#include <utility>
#include <vector>

#include "server/base/mutex.h"
#include "server/device/host_memory.h"

namespace sconce {
namespace {

// Free blocks of a size that are kept: as many as batches whose answers are being sent, usually.
constexpr size_t kMostFree = 8;
constexpr int64_t kLeastBytes = 4096;

// Few sizes, so that blocks fit again: each twice the one before.
int64_t BlockSize(int64_t size_bytes) {
  int64_t block = kLeastBytes;
  while (block < size_bytes) block *= 2;
  return block;
}

}  // namespace

struct OutputPool::Blocks {
  Mutex mutex;
  std::map<int64_t, std::vector<at::Tensor>> free ABSL_GUARDED_BY(mutex);  // by size
  bool closed ABSL_GUARDED_BY(mutex) = false;
};

struct OutputPool::Lease {
  Lease(std::shared_ptr<Blocks> of, at::Tensor memory)
      : blocks(std::move(of)), memory(std::move(memory)) {}
  ~Lease() {
    MutexLock lock(&blocks->mutex);
    if (blocks->closed) return;
    std::vector<at::Tensor>& free = blocks->free[static_cast<int64_t>(memory.nbytes())];
    if (free.size() < kMostFree) free.push_back(std::move(memory));
  }

  const std::shared_ptr<Blocks> blocks;
  at::Tensor memory;
};

OutputPool::OutputPool(c10::Device device) : device_(device), blocks_(std::make_shared<Blocks>()) {}

OutputPool::~OutputPool() {
  MutexLock lock(&blocks_->mutex);
  blocks_->closed = true;
  blocks_->free.clear();
}

int64_t OutputPool::free_bytes() const {
  MutexLock lock(&blocks_->mutex);
  int64_t bytes = 0;
  for (const auto& [size, free] : blocks_->free) bytes += size * static_cast<int64_t>(free.size());
  return bytes;
}

std::shared_ptr<void> OutputPool::Take(int64_t size_bytes) {
  const int64_t block_bytes = BlockSize(size_bytes);
  at::Tensor memory;
  {
    MutexLock lock(&blocks_->mutex);
    std::vector<at::Tensor>& free = blocks_->free[block_bytes];
    if (!free.empty()) {
      memory = std::move(free.back());
      free.pop_back();
    }
  }
  if (!memory.defined()) memory = HostMemoryFor(device_, block_bytes);
  void* const first = memory.data_ptr();
  return std::shared_ptr<void>(std::make_shared<Lease>(blocks_, std::move(memory)), first);
}

}  // namespace sconce
