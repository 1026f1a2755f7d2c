#include "server/device/upload/pooled_tensors.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <utility>

namespace sconce {

at::Tensor ViewOfBlock(const at::Tensor& memory, const UploadPlan::Block& block,
                       at::IntArrayRef sizes) {
  const at::Tensor numbers = block.type == at::kByte ? memory : memory.view(block.type);
  if (block.format == at::MemoryFormat::ChannelsLast) {
    return numbers.as_strided(sizes, c10::get_channels_last_strides_2d(sizes));
  }
  return numbers.view(sizes);
}

PooledTensors::PooledTensors(c10::Device device, const UploadPlan& plan, Blocks tensors,
                             int64_t shared_bytes)
    : device_(device),
      blocks_(plan.blocks),
      block_of_own_(plan.block_of_own),
      shared_bytes_(shared_bytes),
      size_bytes_(plan.weights_bytes),
      tensors_(std::move(tensors)) {}

int64_t PooledTensors::size_bytes() const {
  MutexLock lock(&mutex_);
  return size_bytes_;
}

void PooledTensors::AssignTo(models::Net& net) const {
  // What a module has as its parameter cannot be an inference tensor.
  const c10::InferenceMode normal(false);
  const std::vector<models::NamedTensor> own = net.State();
  MutexLock lock(&mutex_);
  TORCH_CHECK(tensors_.size() == blocks_.size(), "the weights have been written over");
  for (size_t i = 0; i < own.size(); ++i) {
    const size_t block = block_of_own_[i];
    TORCH_CHECK(tensors_[block] != nullptr, own[i].name, ": was let go");
    net.Assign(i, ViewOfBlock(tensors_[block]->memory(), blocks_[block], own[i].tensor.sizes()));
  }
}

void PooledTensors::LetGo(absl::Span<const size_t> own) const {
  MutexLock lock(&mutex_);
  let_go_.insert(let_go_.end(), own.begin(), own.end());
  for (const size_t i : own) {
    // A block goes with the last of the tensors that are tied.
    const size_t block = block_of_own_[i];
    bool needed = false;
    for (size_t other = 0; other < block_of_own_.size() && !needed; ++other) {
      needed = block_of_own_[other] == block &&
               std::find(let_go_.begin(), let_go_.end(), other) == let_go_.end();
    }
    if (needed || block >= tensors_.size() || tensors_[block] == nullptr) continue;
    tensors_[block].reset();
    size_bytes_ -= UploadPlan::Align(blocks_[block].size_bytes);
  }
}

bool PooledTensors::IsLaidOutAs(const UploadPlan& plan) const {
  // Blocks are numbered in the order of the network's tensors.
  return plan.block_of_own == block_of_own_ &&
         std::equal(plan.blocks.begin(), plan.blocks.end(), blocks_.begin(), blocks_.end(),
                    [](const UploadPlan::Block& a, const UploadPlan::Block& b) {
                      return a.tensor.has_value() == b.tensor.has_value() && a.type == b.type &&
                             a.format == b.format && a.size_bytes == b.size_bytes;
                    });
}

PooledTensors::Blocks PooledTensors::Take() const {
  MutexLock lock(&mutex_);
  return std::exchange(tensors_, {});
}

void PooledTensors::GiveBack(Blocks tensors) const {
  MutexLock lock(&mutex_);
  tensors_ = std::move(tensors);
}

}  // namespace sconce
