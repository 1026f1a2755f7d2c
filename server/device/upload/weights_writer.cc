#include "server/device/upload/weights_writer.h"

#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>

#include <cstring>

#include "server/device/torch_errors.h"
#include "server/device/upload/pooled_tensors.h"
#include "server/weights/scalar_type.h"

namespace sconce {
namespace {

std::byte* Data(const at::Tensor& bytes) { return static_cast<std::byte*>(bytes.data_ptr()); }

}  // namespace

WeightsWriter::WeightsWriter(const Checkpoint* checkpoint, const UploadPlan* plan,
                             const WeightsTarget& target)
    : checkpoint_(checkpoint), plan_(plan), target_(target), name_(target.device.str()) {
  if (target.device.is_cpu()) host_memory_.emplace(plan->weights_bytes, plan->blocks.size());
}

at::Tensor WeightsWriter::Allocate(const UploadPlan::Block& block) {
  // What is made here becomes a module's parameter, which an inference tensor cannot.
  const c10::InferenceMode normal(false);
  if (host_memory_.has_value()) return host_memory_->Take(block.size_bytes);
  const c10::StreamGuard on_stream(*target_.stream);
  return at::empty({block.size_bytes}, at::TensorOptions().dtype(at::kByte).device(target_.device));
}

std::optional<c10::Event> WeightsWriter::Put(absl::Span<const Write> writes,
                                             const at::Tensor& portion) {
  const c10::InferenceMode normal(false);
  if (target_.device.is_cpu()) {
    for (const Write& write : writes) {
      const TensorPiece& piece = write.piece;
      if (plan_->IsAsInFile(*checkpoint_, plan_->blocks[write.block])) {
        std::memcpy(Data(write.memory) + piece.first_byte, Data(portion) + piece.at,
                    static_cast<size_t>(piece.size_bytes));
      } else {
        Cast(write, portion.narrow(0, piece.at, piece.size_bytes));
      }
    }
    return std::nullopt;
  }
  MutexLock lock(&queueing_);
  const c10::StreamGuard on_stream(*target_.stream);
  for (const Write& write : writes) {
    const TensorPiece& piece = write.piece;
    const at::Tensor from = portion.narrow(0, piece.at, piece.size_bytes);
    if (plan_->IsAsInFile(*checkpoint_, plan_->blocks[write.block])) {
      write.memory.narrow(0, piece.first_byte, piece.size_bytes).copy_(from, /*non_blocking=*/true);
      continue;
    }
    if (!scratch_.defined()) {
      scratch_ = at::empty({plan_->scratch_bytes},
                           at::TensorOptions().dtype(at::kByte).device(target_.device));
    }
    scratch_.narrow(0, piece.at, piece.size_bytes).copy_(from, /*non_blocking=*/true);
  }
  c10::Event copied(target_.device.type());
  copied.record(*target_.stream);
  for (const Write& write : writes) {
    if (plan_->IsAsInFile(*checkpoint_, plan_->blocks[write.block])) continue;
    Cast(write, scratch_.narrow(0, write.piece.at, write.piece.size_bytes));
  }
  return copied;
}

void WeightsWriter::Cast(const Write& write, const at::Tensor& came) const {
  const TensorPiece& piece = write.piece;
  const TensorDescriptor& tensor = checkpoint_->tensors()[piece.tensor];
  const UploadPlan::Block& block = plan_->blocks[write.block];
  const at::ScalarType type = ToScalarType(tensor.dtype);
  const at::Tensor numbers = type == at::kByte ? came : came.view(type);
  const int64_t unit = plan_->UnitBytes(*checkpoint_, piece.tensor);
  const int64_t first = piece.first_byte / unit;
  const int64_t count = piece.size_bytes / unit;
  if (!plan_->IsCutByRows(piece.tensor)) {
    ViewOfBlock(write.memory, block, {tensor.num_elements()})
        .narrow(0, first, count)
        .copy_(numbers, /*non_blocking=*/true);
    return;
  }
  std::vector<int64_t> rows = tensor.shape;
  rows[0] = count;
  ViewOfBlock(write.memory, block, tensor.shape)
      .narrow(0, first, count)
      .copy_(numbers.view(rows), /*non_blocking=*/true);
}

c10::Event WeightsWriter::CopyBack(const Write& write, const at::Tensor& portion) {
  const c10::InferenceMode normal(false);
  const TensorPiece& piece = write.piece;
  MutexLock lock(&queueing_);
  const c10::StreamGuard on_stream(*target_.stream);
  portion.narrow(0, piece.at, piece.size_bytes)
      .copy_(write.memory.narrow(0, piece.first_byte, piece.size_bytes), /*non_blocking=*/true);
  c10::Event copied(target_.device.type());
  copied.record(*target_.stream);
  return copied;
}

void WeightsWriter::Fill(const UploadPlan::Block& block, const at::Tensor& memory) {
  if (block.size_bytes == 0) return;
  const c10::InferenceMode normal(false);
  const c10::OptionalStreamGuard on_stream(target_.stream);
  (block.type == at::kByte ? memory : memory.view(block.type)).fill_(block.fill);
}

void WeightsWriter::Await() const {
  if (target_.stream.has_value()) target_.stream->synchronize();
}

absl::Status AwaitAll(const std::deque<WeightsWriter>& writers) {
  absl::Status first;
  for (const WeightsWriter& writer : writers) {
    const absl::Status status = Guarded(writer.name(), [&] {
      writer.Await();
      return absl::OkStatus();
    });
    if (first.ok()) first = status;
  }
  return first;
}

}  // namespace sconce
