#include "server/device/upload/device_weights.h"

#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>

#include "server/weights/scalar_type.h"

namespace sconce {
namespace {

at::Tensor BytesOn(c10::Device device, int64_t size_bytes) {
  return at::empty({size_bytes}, at::TensorOptions().dtype(at::kByte).device(device));
}

// `bytes` as numbers of that type, in one dimension.
at::Tensor As(const at::Tensor& bytes, at::ScalarType type) {
  return type == at::kByte ? bytes : bytes.view(type);
}

// The block as a tensor of that shape.
at::Tensor ViewOf(const at::Tensor& weights, const UploadPlan::Block& block,
                  at::IntArrayRef sizes) {
  const at::Tensor numbers = As(weights.narrow(0, block.offset, block.size_bytes), block.type);
  if (block.format == at::MemoryFormat::ChannelsLast) {
    return numbers.as_strided(sizes, c10::get_channels_last_strides_2d(sizes));
  }
  return numbers.view(sizes);
}

}  // namespace

DeviceWeights::DeviceWeights(const Checkpoint* checkpoint, const UploadPlan* plan,
                             c10::Stream stream)
    : checkpoint_(checkpoint), plan_(plan), stream_(stream), device_(stream.device().str()) {}

void DeviceWeights::Allocate() {
  // What is made here becomes a module's parameter, which an inference tensor cannot.
  const c10::InferenceMode normal(false);
  const c10::StreamGuard on_stream(stream_);
  weights_ = BytesOn(stream_.device(), plan_->weights_bytes);
  scratch_ = BytesOn(stream_.device(), plan_->scratch_bytes);
}

c10::Event DeviceWeights::Take(UploadPlan::Way way, absl::Span<const TensorPiece> pieces,
                               const at::Tensor& portion) {
  const c10::InferenceMode normal(false);
  const c10::StreamGuard on_stream(stream_);
  if (way == UploadPlan::Way::kAsTheyAre) {
    PlaceOf(pieces[0], portion.size(0)).copy_(portion, /*non_blocking=*/true);
  } else {
    // The scratch memory serves one portion after the other, in the stream's order.
    scratch_.narrow(0, 0, portion.size(0)).copy_(portion, /*non_blocking=*/true);
  }
  c10::Event copied(stream_.device_type());
  copied.record(stream_);
  if (way == UploadPlan::Way::kCast) {
    for (const TensorPiece& piece : pieces) Cast(piece);
  }
  return copied;
}

at::Tensor DeviceWeights::PlaceOf(const TensorPiece& first, int64_t size_bytes) const {
  const UploadPlan::Block& block = plan_->blocks[plan_->blocks_of_tensor[first.tensor][0]];
  return weights_.narrow(0, block.offset + first.first_byte, size_bytes);
}

void* DeviceWeights::AddressOf(const TensorPiece& piece) const {
  return PlaceOf(piece, piece.size_bytes).mutable_data_ptr();
}

c10::Event DeviceWeights::CopyBack(absl::Span<const TensorPiece> pieces,
                                   const at::Tensor& portion) const {
  const c10::InferenceMode normal(false);
  const c10::StreamGuard on_stream(stream_);
  portion.copy_(PlaceOf(pieces[0], portion.size(0)), /*non_blocking=*/true);
  c10::Event copied(stream_.device_type());
  copied.record(stream_);
  return copied;
}

void DeviceWeights::Cast(const TensorPiece& piece) {
  const TensorDescriptor& tensor = checkpoint_->tensors()[piece.tensor];
  const at::Tensor came =
      As(scratch_.narrow(0, piece.at, piece.size_bytes), ToScalarType(tensor.dtype));
  const int64_t unit = plan_->UnitBytes(*checkpoint_, piece.tensor);
  const int64_t first = piece.first_byte / unit;
  const int64_t count = piece.size_bytes / unit;
  for (const size_t index : plan_->blocks_of_tensor[piece.tensor]) {
    const UploadPlan::Block& block = plan_->blocks[index];
    if (!plan_->IsCutByRows(piece.tensor)) {
      ViewOf(weights_, block, {tensor.num_elements()})
          .narrow(0, first, count)
          .copy_(came, /*non_blocking=*/true);
      continue;
    }
    std::vector<int64_t> rows = tensor.shape;
    rows[0] = count;
    ViewOf(weights_, block, tensor.shape)
        .narrow(0, first, count)
        .copy_(came.view(rows), /*non_blocking=*/true);
  }
}

void DeviceWeights::FillConstants() {
  const c10::InferenceMode normal(false);
  const c10::StreamGuard on_stream(stream_);
  for (const UploadPlan::Block& block : plan_->blocks) {
    if (block.tensor.has_value() || block.size_bytes == 0) continue;
    As(weights_.narrow(0, block.offset, block.size_bytes), block.type).fill_(block.fill);
  }
}

void DeviceWeights::AssignTo(models::Net& net) const {
  const c10::InferenceMode normal(false);
  const std::vector<models::NamedTensor> own = net.State();
  for (size_t i = 0; i < own.size(); ++i) {
    const UploadPlan::Block& block = plan_->blocks[plan_->block_of_own[i]];
    net.Assign(i, ViewOf(weights_, block, own[i].tensor.sizes()));
  }
}

}  // namespace sconce
