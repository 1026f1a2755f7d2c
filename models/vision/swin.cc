// Swin Transformer, both versions, as torchvision has them, with its parameter names.
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/roll.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/families.h"
#include "models/vision/blocks.h"
#include "models/vision/transformer_blocks.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

// How an image of features, [batch, height, width, channels], is cut into windows: filled up with
// zeros to multiples of the window's size, and shifted cyclically.
struct SwinGrid {
  int64_t window, height, width;  // of the filled image
  int64_t shift_down, shift_right;

  SwinGrid(const at::Tensor& image, int64_t window_size, int64_t shift) : window(window_size) {
    const auto filled = [&](int64_t size) { return (size + window - 1) / window * window; };
    height = filled(image.size(1));
    width = filled(image.size(2));
    shift_down = window >= height ? 0 : shift;
    shift_right = window >= width ? 0 : shift;
  }

  bool shifted() const { return shift_down + shift_right > 0; }
  int64_t rows() const { return height / window; }
  int64_t columns() const { return width / window; }
  int64_t windows() const { return rows() * columns(); }
};

// Of each row or column, which part of a shifted image it belongs to: 2 is what the shift brings in
// from the other side, 1 what shares the last window with it, 0 the rest.
at::Tensor SwinParts(int64_t size, int64_t window, int64_t shift, const at::Tensor& like) {
  if (shift == 0) return at::zeros({size}, like.options());
  const at::Tensor places = at::arange(size, like.options());
  const at::Tensor in_last_window = places.ge(size - window).to(like.scalar_type());
  return in_last_window + places.ge(size - shift).to(like.scalar_type());
}

// What is added to the attention of places that are neighbours by the cyclic shift alone:
// [windows, 1, places, places] of 0 and -100.
at::Tensor SwinMask(const SwinGrid& grid, const at::Tensor& like) {
  const at::Tensor down = SwinParts(grid.height, grid.window, grid.shift_down, like);
  const at::Tensor right = SwinParts(grid.width, grid.window, grid.shift_right, like);
  const at::Tensor parts = down.unsqueeze(1) * 3 + right.unsqueeze(0);
  const at::Tensor regions = parts.view({grid.rows(), grid.window, grid.columns(), grid.window})
                                 .permute({0, 2, 1, 3})
                                 .reshape({grid.windows(), grid.window * grid.window});
  const at::Tensor apart = regions.unsqueeze(1).ne(regions.unsqueeze(2));
  return (apart.to(like.scalar_type()) * -100.0).unsqueeze(1);
}

at::Tensor SwinNormalised(const at::Tensor& x) {
  return x / at::linalg_vector_norm(x, 2.0, {-1}, /*keepdim=*/true).clamp_min(1e-12).expand_as(x);
}

struct SwinSizes {
  int64_t channels, heads, window, hidden;
  bool second_version;
};

class SwinAttentionImpl final : public nn::Module {
 public:
  explicit SwinAttentionImpl(const SwinSizes& sizes) : sizes_(sizes) {
    const int64_t window = sizes.window, heads = sizes.heads, side = 2 * window - 1;
    if (sizes.second_version) {
      logit_scale_ = register_parameter("logit_scale", torch::ones({heads, 1, 1}));
      coords_ = register_buffer("relative_coords_table", torch::empty({1, side, side, 2}));
    } else {
      table_ =
          register_parameter("relative_position_bias_table", torch::empty({side * side, heads}));
    }
    index_ = register_buffer(
        "relative_position_index",
        torch::empty({window * window * window * window}, torch::TensorOptions(at::kLong)));
    qkv_ = register_module("qkv", Dense(sizes.channels, 3 * sizes.channels));
    proj_ = register_module("proj", Dense(sizes.channels, sizes.channels));
    if (!sizes.second_version) return;
    cpb_mlp_ = register_module("cpb_mlp",
                               Layers(Dense(2, 512), nn::ReLU(nn::ReLUOptions(/*inplace=*/true)),
                                      Dense(nn::LinearOptions(512, heads).bias(false))));
  }

  // `mask`: of a shifted grid.
  at::Tensor forward(const at::Tensor& input, const SwinGrid& grid, const at::Tensor& mask) {
    const int64_t batch = input.size(0), height = input.size(1), width = input.size(2);
    const int64_t channels = input.size(3), places = grid.window * grid.window;
    const at::Tensor bias = Bias();
    at::Tensor x =
        at::constant_pad_nd(input, {0, 0, 0, grid.width - width, 0, grid.height - height}, 0);
    if (grid.shifted()) x = at::roll(x, {-grid.shift_down, -grid.shift_right}, {1, 2});
    x = x.view({batch, grid.rows(), grid.window, grid.columns(), grid.window, channels})
            .permute({0, 1, 3, 2, 4, 5})
            .reshape({batch * grid.windows(), places, channels});
    const at::Tensor attention = Attend(x, [&](const at::Tensor& query, const at::Tensor& key) {
      at::Tensor scores = Scores(query, key) + bias;
      if (!grid.shifted()) return scores;
      scores =
          scores.view({batch, grid.windows(), sizes_.heads, places, places}) + mask.unsqueeze(0);
      return scores.view({-1, sizes_.heads, places, places});
    });
    x = proj_->forward(attention)
            .view({batch, grid.rows(), grid.columns(), grid.window, grid.window, channels})
            .permute({0, 1, 3, 2, 4, 5})
            .reshape({batch, grid.height, grid.width, channels});
    if (grid.shifted()) x = at::roll(x, {grid.shift_down, grid.shift_right}, {1, 2});
    return x.slice(1, 0, height).slice(2, 0, width).contiguous();
  }

 private:
  at::Tensor Bias() {
    if (!sizes_.second_version) return RelativePositionBias(table_, index_);
    const at::Tensor table = cpb_mlp_->forward(coords_).view({-1, sizes_.heads});
    return at::sigmoid(RelativePositionBias(table, index_)) * 16;
  }

  // `x`: [windows of all images, places, channels].
  template <typename MakeScores>
  at::Tensor Attend(const at::Tensor& x, MakeScores make_scores) {
    const int64_t windows = x.size(0), places = x.size(1), channels = x.size(2);
    at::Tensor qkv_bias = qkv_->bias;
    if (sizes_.second_version) {
      qkv_bias = qkv_bias.clone();
      qkv_bias.slice(0, channels, 2 * channels).zero_();
    }
    const at::Tensor qkv = at::linear(x, qkv_->weight, qkv_bias)
                               .reshape({windows, places, 3, sizes_.heads, channels / sizes_.heads})
                               .permute({2, 0, 3, 1, 4});
    const at::Tensor weights = at::softmax(make_scores(qkv[0], qkv[1]), -1);
    return at::matmul(weights, qkv[2]).transpose(1, 2).reshape({windows, places, channels});
  }

  at::Tensor Scores(const at::Tensor& query, const at::Tensor& key) {
    if (sizes_.second_version) {
      const at::Tensor cosines =
          at::matmul(SwinNormalised(query), SwinNormalised(key).transpose(-2, -1));
      return cosines * at::clamp(logit_scale_, std::nullopt, std::log(100.0)).exp();
    }
    const double scale = std::pow(static_cast<double>(sizes_.channels / sizes_.heads), -0.5);
    return at::matmul(query * scale, key.transpose(-2, -1));
  }

  const SwinSizes sizes_;
  at::Tensor table_, logit_scale_, coords_, index_;
  Dense qkv_{nullptr}, proj_{nullptr};
  Layers cpb_mlp_{nullptr};
};
TORCH_MODULE(SwinAttention);

class SwinBlock final : public nn::Module {
 public:
  explicit SwinBlock(const SwinSizes& sizes) : norm_last_(sizes.second_version) {
    norm1_ = register_module("norm1", LayerNorm(sizes.channels));
    attn_ = register_module("attn", SwinAttention(sizes));
    register_module("stochastic_depth", PassThrough());
    norm2_ = register_module("norm2", LayerNorm(sizes.channels));
    mlp_ = register_module("mlp", PerceptronWithGelu(sizes.channels, sizes.hidden));
  }

  at::Tensor forward(const at::Tensor& input, const SwinGrid& grid, const at::Tensor& mask) {
    if (norm_last_) {
      const at::Tensor x = input + norm1_->forward(attn_->forward(input, grid, mask));
      return x + norm2_->forward(mlp_->forward(x));
    }
    const at::Tensor x = input + attn_->forward(norm1_->forward(input), grid, mask);
    return x + mlp_->forward(norm2_->forward(x));
  }

 private:
  const bool norm_last_;
  nn::LayerNorm norm1_{nullptr}, norm2_{nullptr};
  SwinAttention attn_{nullptr};
  Layers mlp_{nullptr};
};

// Every second block's windows are shifted by half.
class SwinStage final : public nn::Module {
 public:
  SwinStage(const SwinSizes& sizes, int64_t depth) : window_(sizes.window) {
    for (int64_t i = 0; i < depth; ++i) {
      blocks_.push_back(register_module(absl::StrCat(i), std::make_shared<SwinBlock>(sizes)));
    }
  }

  at::Tensor forward(at::Tensor x) {
    const SwinGrid even(x, window_, 0), odd(x, window_, window_ / 2);
    at::Tensor mask;
    if (odd.shifted() && blocks_.size() > 1) mask = SwinMask(odd, x);
    for (size_t i = 0; i < blocks_.size(); ++i) {
      x = blocks_[i]->forward(x, i % 2 == 0 ? even : odd, mask);
    }
    return x;
  }

 private:
  const int64_t window_;
  std::vector<std::shared_ptr<SwinBlock>> blocks_;
};

// Four neighbours become one place of twice the channels.
class SwinMerging final : public nn::Module {
 public:
  SwinMerging(int64_t channels, bool norm_last) : norm_last_(norm_last) {
    reduction_ = register_module("reduction",
                                 Dense(nn::LinearOptions(4 * channels, 2 * channels).bias(false)));
    norm_ = register_module("norm", LayerNorm((norm_last ? 2 : 4) * channels));
  }

  at::Tensor forward(const at::Tensor& input) {
    const at::Tensor even =
        at::constant_pad_nd(input, {0, 0, 0, input.size(2) % 2, 0, input.size(1) % 2}, 0);
    const auto every_second = [&](int64_t down, int64_t right) {
      return even.slice(1, down, std::nullopt, 2).slice(2, right, std::nullopt, 2);
    };
    const at::Tensor x = at::cat(
        {every_second(0, 0), every_second(1, 0), every_second(0, 1), every_second(1, 1)}, -1);
    return norm_last_ ? norm_->forward(reduction_->forward(x))
                      : reduction_->forward(norm_->forward(x));
  }

 private:
  const bool norm_last_;
  Dense reduction_{nullptr};
  nn::LayerNorm norm_{nullptr};
};

class SwinModule final : public nn::Module {
 public:
  SwinModule(const Parameters& parameters, bool second_version) {
    const auto& depths = Get<std::vector<int64_t>>(parameters, "depths");
    const auto& heads = Get<std::vector<int64_t>>(parameters, "heads");
    const int64_t patch = Get<int64_t>(parameters, "patch_size");
    int64_t channels = Get<int64_t>(parameters, "width");
    features_ = register_module("features", Layers());
    features_->push_back(Layers(nn::Conv2d(nn::Conv2dOptions(3, channels, patch).stride(patch)),
                                Permute(std::vector<int64_t>{0, 2, 3, 1}), LayerNorm(channels)));
    for (size_t i = 0; i < depths.size(); ++i) {
      const double hidden = static_cast<double>(channels) * Get<double>(parameters, "mlp_ratio");
      const SwinSizes sizes{channels, heads[i], Get<int64_t>(parameters, "window"),
                            static_cast<int64_t>(hidden), second_version};
      features_->push_back(std::make_shared<SwinStage>(sizes, depths[i]));
      if (i + 1 == depths.size()) break;
      features_->push_back(std::make_shared<SwinMerging>(channels, second_version));
      channels *= 2;
    }
    norm_ = register_module("norm", LayerNorm(channels));
    permute_ = register_module("permute", Permute(std::vector<int64_t>{0, 3, 1, 2}));
    avgpool_ = register_module("avgpool", GlobalPool());
    flatten_ = register_module("flatten", nn::Flatten());
    head_ = register_module("head", Dense(channels, Get<int64_t>(parameters, "num_classes")));
  }

  at::Tensor forward(const at::Tensor& input) {
    const at::Tensor x = permute_->forward(norm_->forward(features_->forward(input)));
    return head_->forward(flatten_->forward(avgpool_->forward(x)));
  }

 private:
  Layers features_{nullptr};
  nn::LayerNorm norm_{nullptr};
  Permute permute_{nullptr};
  nn::AdaptiveAvgPool2d avgpool_{nullptr};
  nn::Flatten flatten_{nullptr};
  Dense head_{nullptr};
};

Parameters SwinVariant(int64_t width, int64_t third_depth, int64_t window) {
  const int64_t heads = width / 32;
  return {{"patch_size", int64_t{4}},
          {"width", width},
          {"depths", std::vector<int64_t>{2, 2, third_depth, 2}},
          {"heads", std::vector<int64_t>{heads, 2 * heads, 4 * heads, 8 * heads}},
          {"window", window},
          {"mlp_ratio", 4.0}};
}

class SwinFamily final : public Family {
 public:
  SwinFamily(std::string name, bool second_version, std::vector<Variant> variants)
      : name_(std::move(name)), second_version_(second_version), variants_(std::move(variants)) {}

  absl::string_view name() const override { return name_; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const std::vector<Variant>& variants() const override { return variants_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& /*configured*/) const override {
    const int64_t table = SizeOf(state, "features.1.0.attn.relative_position_bias_table", 0);
    const int64_t coords = SizeOf(state, "features.1.0.attn.relative_coords_table", 1);
    const int64_t window = second_version_ ? (coords + 1) / 2 : WindowOfTable(table);
    if (window == 0) {
      return absl::NotFoundError(second_version_ ? "no relative_coords_table at features.1.0.attn"
                                                 : "no bias table at features.1.0.attn");
    }
    std::vector<int64_t> depths, heads;
    double mlp_ratio = 0;
    for (int64_t i = 1; i < 2 * kMostStages; i += 2) {
      const std::string stage = absl::StrCat("features.", i, ".");
      const int64_t own = second_version_
                              ? SizeOf(state, stage + "0.attn.logit_scale", 0)
                              : SizeOf(state, stage + "0.attn.relative_position_bias_table", 1);
      const int64_t channels = SizeOf(state, stage + "0.norm1.weight", 0);
      if (own == 0 || channels == 0) break;
      heads.push_back(own);
      depths.push_back(CountBlocks(state, stage));
      const auto hidden = static_cast<double>(SizeOf(state, stage + "0.mlp.0.weight", 0));
      // The wider, the more exact.
      mlp_ratio = std::max(mlp_ratio, hidden / static_cast<double>(channels));
    }
    Inference inference{NumClasses(state, "head.weight")};
    inference.parameters.merge(Parameters{{"patch_size", SizeOf(state, "features.0.0.weight", 2)},
                                          {"width", SizeOf(state, "features.0.0.weight", 0)},
                                          {"depths", std::move(depths)},
                                          {"heads", std::move(heads)},
                                          {"window", window},
                                          {"mlp_ratio", mlp_ratio}});
    return inference;
  }

  absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& parameters) const override {
    const absl::Status lengths = CheckLists(name_, parameters, {"depths", "heads"});
    if (!lengths.ok()) return lengths;
    const auto& heads = Get<std::vector<int64_t>>(parameters, "heads");
    if (heads.size() > static_cast<size_t>(kMostStages)) {
      return absl::InvalidArgumentError(absl::StrCat(name_, ": heads: expected no more than ",
                                                     kMostStages, " stages, got ", heads.size()));
    }
    int64_t channels = Get<int64_t>(parameters, "width");
    for (const int64_t of_stage : heads) {
      if (channels % of_stage != 0) {
        return absl::InvalidArgumentError(
            absl::StrCat(name_, ": heads: expected a number that divides a stage's ", channels,
                         " channels, got ", of_stage));
      }
      channels *= 2;
    }
    return BuildModuleNet<SwinModule>(name_, "SwinTransformer",
                                      ImageClassifierSignature(parameters), parameters,
                                      second_version_);
  }

 private:
  const std::string name_;
  const bool second_version_;
  const std::vector<ParameterSpec> parameters_ = WithImageClassifierParameters(
      1, {{.name = "patch_size",
           .default_value = int64_t{4},
           .meaning = "height and width of a patch in pixels"},
          {.name = "width", .meaning = "features of each patch; twice as many in each next stage"},
          {.name = "depths", .type = ParameterSpec::Type::kInts, .meaning = "blocks of each stage"},
          {.name = "heads",
           .type = ParameterSpec::Type::kInts,
           .meaning = "attention heads of each stage"},
          {.name = "window", .meaning = "height and width of a window in patches"},
          {.name = "mlp_ratio",
           .type = ParameterSpec::Type::kDouble,
           .default_value = 4.0,
           .meaning = "features within each block's perceptron, by those of the block"}});
  const std::vector<Variant> variants_;
};

}  // namespace

const Family& Swin() {
  static const auto* const family = new SwinFamily("swin", /*second_version=*/false,
                                                   {{"swin_t", SwinVariant(96, 6, 7)},
                                                    {"swin_s", SwinVariant(96, 18, 7)},
                                                    {"swin_b", SwinVariant(128, 18, 7)}});
  return *family;
}

const Family& SwinV2() {
  static const auto* const family = new SwinFamily("swin_v2", /*second_version=*/true,
                                                   {{"swin_v2_t", SwinVariant(96, 6, 8)},
                                                    {"swin_v2_s", SwinVariant(96, 18, 8)},
                                                    {"swin_v2_b", SwinVariant(128, 18, 8)}});
  return *family;
}

}  // namespace sconce::models
