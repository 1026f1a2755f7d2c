// PooledTensors: the ResidentWeights that LoadWeights gives, each block of the plan a tensor of its
// own. Internal to the upload.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_POOLED_TENSORS_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_POOLED_TENSORS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "server/base/mutex.h"
#include "server/device/upload/pooled_weights.h"
#include "server/device/upload/tensor_pool.h"
#include "server/device/upload/upload_plan.h"

namespace sconce {

// Memory that lies as `block` says, as a tensor of that shape.
at::Tensor ViewOfBlock(const at::Tensor& memory, const UploadPlan::Block& block,
                       at::IntArrayRef sizes);

// Thread-safe.
class PooledTensors final : public ResidentWeights {
 public:
  using Blocks = std::vector<std::shared_ptr<PooledTensor>>;  // by block of the plan

  PooledTensors(c10::Device device, const UploadPlan& plan, Blocks tensors, int64_t shared_bytes);

  c10::Device device() const override { return device_; }
  int64_t size_bytes() const override;
  int64_t shared_bytes() const override { return std::min(shared_bytes_, size_bytes()); }
  void AssignTo(models::Net& net) const override;
  void LetGo(absl::Span<const size_t> own) const override;

  // Whether weights of that plan could lie in the same memory.
  bool IsLaidOutAs(const UploadPlan& plan) const;

  // The tensors pass to those who write over them, and come back where that is undone. Whoever was
  // given the weights has none of them in between.
  Blocks Take() const;
  void GiveBack(Blocks tensors) const;

 private:
  const c10::Device device_;
  const std::vector<UploadPlan::Block> blocks_;
  const std::vector<size_t> block_of_own_;
  const int64_t shared_bytes_;

  mutable Mutex mutex_;
  mutable int64_t size_bytes_ ABSL_GUARDED_BY(mutex_);
  mutable Blocks tensors_ ABSL_GUARDED_BY(mutex_);              // null: let go
  mutable std::vector<size_t> let_go_ ABSL_GUARDED_BY(mutex_);  // of the network's tensors
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_POOLED_TENSORS_H_
