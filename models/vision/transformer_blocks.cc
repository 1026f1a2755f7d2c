#include "models/vision/transformer_blocks.h"

#include <ATen/ops/clamp.h>
#include <ATen/ops/index.h>

#include <cmath>
#include <limits>

namespace sconce::models {

namespace nn = torch::nn;

nn::LayerNorm LayerNorm(int64_t channels, double eps) {
  return nn::LayerNorm(nn::LayerNormOptions({channels}).eps(eps));
}

Layers PerceptronWithGelu(int64_t channels, int64_t hidden) {
  return Layers(Dense(channels, hidden), nn::GELU(), PassThrough(), Dense(hidden, channels),
                PassThrough());
}

at::Tensor RelativePositionBias(const at::Tensor& table, const at::Tensor& index) {
  // The index comes from the weights file, and one out of range kills a CUDA device.
  const at::Tensor safe = at::clamp(index.flatten(), 0, table.size(0) - 1);
  const auto places = static_cast<int64_t>(std::llround(std::sqrt(index.numel())));
  const at::Tensor bias = at::index(table, {safe}).view({places, places, -1});
  return bias.permute({2, 0, 1}).contiguous().unsqueeze(0);
}

int64_t WindowOfTable(int64_t rows) {
  const auto side = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(rows))));
  return rows > 0 && side * side == rows && side % 2 == 1 ? (side + 1) / 2 : 0;
}

int64_t SizeOf(absl::Span<const NamedShape> state, absl::string_view name, size_t dimension) {
  const NamedShape* tensor = Find(state, name);
  if (tensor == nullptr || tensor->shape.size() <= dimension) return 0;
  const int64_t size = tensor->shape[dimension];
  return size >= 1 && size <= std::numeric_limits<int32_t>::max() ? size : 0;
}

}  // namespace sconce::models
