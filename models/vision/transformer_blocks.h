// Building blocks that torchvision's transformers share, with its names for their parts and its
// operators in its order, so that results are Python's bit by bit.
//
// Modules belong to the network they are registered in and are called as a Net is.
#ifndef SCONCE_MODELS_VISION_TRANSFORMER_BLOCKS_H_
#define SCONCE_MODELS_VISION_TRANSFORMER_BLOCKS_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "models/architecture.h"
#include "models/dense.h"
#include "models/module_net.h"
#include "models/vision/blocks.h"

namespace sconce::models {

// More than any network has: keeps hostile names from taking long to read.
inline constexpr int64_t kMostStages = 16;

// What does nothing in inference mode: dropout, stochastic depth, identity.
class PassThroughImpl final : public torch::nn::Module {
 public:
  at::Tensor forward(const at::Tensor& x) { return x; }
};
TORCH_MODULE(PassThrough);

class PermuteImpl final : public torch::nn::Module {
 public:
  explicit PermuteImpl(std::vector<int64_t> dims) : dims_(std::move(dims)) {}

  at::Tensor forward(const at::Tensor& x) { return x.permute(dims_); }

 private:
  const std::vector<int64_t> dims_;
};
TORCH_MODULE(Permute);

// Over the last dimension.
torch::nn::LayerNorm LayerNorm(int64_t channels, double eps = 1e-5);

// "0" and "3" linear, GELU between them.
Layers PerceptronWithGelu(int64_t channels, int64_t hidden);

// The rows of `table` (one for each way two places of a window may lie to each other) for every
// pair of places: [1, heads, places, places].
at::Tensor RelativePositionBias(const at::Tensor& table, const at::Tensor& index);

// w of a table of (2w - 1)^2 rows; 0 where that is no such number.
int64_t WindowOfTable(int64_t rows);

// The size of a dimension of the tensor; 0 where there is none or it makes no sense.
int64_t SizeOf(absl::Span<const NamedShape> state, absl::string_view name, size_t dimension);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_VISION_TRANSFORMER_BLOCKS_H_
