// MaxViT as torchvision has it, with its parameter names.
#include <ATen/ops/einsum.h>
#include <ATen/ops/softmax.h>

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/families.h"
#include "models/vision/blocks.h"
#include "models/vision/transformer_blocks.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

constexpr double kMaxVitEpsilon = 1e-3;  // of batch norm
constexpr int64_t kMaxVitImage = 224;

struct MaxVitSizes {
  int64_t head_width, partition, mlp_ratio;
  double expansion, squeeze;
};

Layers MaxVitConvolution(const nn::Conv2d& convolution) {
  Layers layers = ConvNormActivation(convolution, std::nullopt, kMaxVitEpsilon);
  layers->push_back(nn::GELU());
  return layers;
}

nn::Conv2d MaxVitPointwise(int64_t in, int64_t out) {
  return nn::Conv2d(nn::Conv2dOptions(in, out, 1));
}

class MaxVitInvertedBottleneck final : public nn::Module {
 public:
  MaxVitInvertedBottleneck(int64_t in, int64_t out, int64_t stride, const MaxVitSizes& sizes) {
    if (stride != 1 || in != out) {
      proj_ = register_module("proj", Layers());
      if (stride == 2) {
        proj_->push_back(nn::AvgPool2d(nn::AvgPool2dOptions(3).stride(stride).padding(1)));
      }
      proj_->push_back(MaxVitPointwise(in, out));
    } else {
      register_module("proj", PassThrough());
    }
    register_module("stochastic_depth", PassThrough());
    const auto share = [&](double ratio) {
      return static_cast<int64_t>(static_cast<double>(out) * ratio);
    };
    const int64_t middle = share(sizes.expansion);
    layers_ = register_module("layers", Layers());
    layers_->push_back("pre_norm", BatchNorm(in, kMaxVitEpsilon));
    layers_->push_back("conv_a", MaxVitConvolution(Convolution(in, middle, 1)));
    layers_->push_back("conv_b", MaxVitConvolution(Convolution(middle, middle, 3, stride, middle)));
    layers_->push_back(
        "squeeze_excitation",
        std::make_shared<SqueezeExcitation>(middle, share(sizes.squeeze),
                                            Activation(ActivationKind::kSilu, /*inplace=*/false),
                                            ActivationKind::kSigmoid));
    layers_->push_back("conv_c", MaxVitPointwise(middle, out));
  }

  at::Tensor forward(const at::Tensor& input) {
    const at::Tensor residual = proj_.is_empty() ? input : proj_->forward(input);
    return residual + layers_->forward(input);
  }

 private:
  Layers proj_{nullptr}, layers_{nullptr};
};

// Attention among the places of each partition: [batch, partitions, places, channels].
class MaxVitAttentionImpl final : public nn::Module {
 public:
  MaxVitAttentionImpl(int64_t channels, const MaxVitSizes& sizes)
      : heads_(channels / sizes.head_width), scale_(std::pow(channels, -0.5)) {
    const int64_t side = 2 * sizes.partition - 1, places = sizes.partition * sizes.partition;
    table_ =
        register_parameter("relative_position_bias_table", torch::empty({side * side, heads_}));
    index_ = register_buffer("relative_position_index",
                             torch::empty({places, places}, torch::TensorOptions(at::kLong)));
    to_qkv_ = register_module("to_qkv", Dense(channels, 3 * channels));
    merge_ = register_module("merge", Dense(channels, channels));
  }

  at::Tensor forward(const at::Tensor& x) {
    const int64_t batch = x.size(0), partitions = x.size(1), places = x.size(2);
    const int64_t channels = x.size(3);
    std::vector<at::Tensor> qkv = to_qkv_->forward(x).chunk(3, -1);
    for (at::Tensor& part : qkv) {
      part = part.reshape({batch, partitions, places, heads_, channels / heads_})
                 .permute({0, 1, 3, 2, 4});
    }
    const at::Tensor scores =
        at::einsum("B G H I D, B G H J D -> B G H I J", {qkv[0], qkv[1] * scale_});
    const at::Tensor weights = at::softmax(scores + RelativePositionBias(table_, index_), -1);
    const at::Tensor seen = at::einsum("B G H I J, B G H J D -> B G H I D", {weights, qkv[2]});
    return merge_->forward(
        seen.permute({0, 1, 3, 2, 4}).reshape({batch, partitions, places, channels}));
  }

 private:
  const int64_t heads_;
  const double scale_;
  at::Tensor table_, index_;
  Dense to_qkv_{nullptr}, merge_{nullptr};
};
TORCH_MODULE(MaxVitAttention);

// Partitions are windows of neighbours, or grids that span the image.
class MaxVitPartitionAttention final : public nn::Module {
 public:
  MaxVitPartitionAttention(int64_t channels, bool grid, const MaxVitSizes& sizes)
      : partition_(sizes.partition), grid_(grid) {
    for (const char* name :
         {"partition_op", "departition_op", "partition_swap", "departition_swap"}) {
      register_module(name, PassThrough());
    }
    attn_layer_ = register_module(
        "attn_layer", Layers(LayerNorm(channels), MaxVitAttention(channels, sizes), PassThrough()));
    const int64_t hidden = channels * sizes.mlp_ratio;
    mlp_layer_ =
        register_module("mlp_layer", Layers(LayerNorm(channels), Dense(channels, hidden),
                                            nn::GELU(), Dense(hidden, channels), PassThrough()));
    register_module("stochastic_dropout", PassThrough());
  }

  at::Tensor forward(const at::Tensor& input) {
    const int64_t batch = input.size(0), channels = input.size(1);
    const int64_t height = input.size(2), width = input.size(3);
    TORCH_CHECK(height == width && height % partition_ == 0, "expected a square of a multiple of ",
                partition_, " places, got ", height, " by ", width);
    const int64_t side = grid_ ? height / partition_ : partition_;  // of a tile
    const int64_t tiles = height / side;                            // in each direction
    at::Tensor x = input.reshape({batch, channels, tiles, side, tiles, side})
                       .permute({0, 2, 4, 3, 5, 1})
                       .reshape({batch, tiles * tiles, side * side, channels});
    if (grid_) x = x.swapaxes(-2, -3);
    x = x + attn_layer_->forward(x);
    x = x + mlp_layer_->forward(x);
    if (grid_) x = x.swapaxes(-2, -3);
    return x.reshape({batch, tiles, tiles, side, side, channels})
        .permute({0, 5, 1, 3, 2, 4})
        .reshape({batch, channels, height, width});
  }

 private:
  const int64_t partition_;
  const bool grid_;
  Layers attn_layer_{nullptr}, mlp_layer_{nullptr};
};

class MaxVitLayer final : public nn::Module {
 public:
  MaxVitLayer(int64_t in, int64_t out, int64_t stride, const MaxVitSizes& sizes) {
    layers_ = register_module("layers", Layers());
    layers_->push_back("MBconv",
                       std::make_shared<MaxVitInvertedBottleneck>(in, out, stride, sizes));
    layers_->push_back("window_attention",
                       std::make_shared<MaxVitPartitionAttention>(out, /*grid=*/false, sizes));
    layers_->push_back("grid_attention",
                       std::make_shared<MaxVitPartitionAttention>(out, /*grid=*/true, sizes));
  }

  at::Tensor forward(const at::Tensor& x) { return layers_->forward(x); }

 private:
  Layers layers_{nullptr};
};

// The first layer halves the image.
class MaxVitBlock final : public nn::Module {
 public:
  MaxVitBlock(int64_t in, int64_t out, int64_t depth, const MaxVitSizes& sizes) {
    layers_ = register_module("layers", Layers());
    for (int64_t i = 0; i < depth; ++i) {
      layers_->push_back(
          std::make_shared<MaxVitLayer>(i == 0 ? in : out, out, i == 0 ? 2 : 1, sizes));
    }
  }

  at::Tensor forward(const at::Tensor& x) { return layers_->forward(x); }

 private:
  Layers layers_{nullptr};
};

class MaxVitModule final : public nn::Module {
 public:
  explicit MaxVitModule(const Parameters& parameters) {
    const auto& widths = Get<std::vector<int64_t>>(parameters, "widths");
    const auto& depths = Get<std::vector<int64_t>>(parameters, "depths");
    const MaxVitSizes sizes{
        Get<int64_t>(parameters, "head_width"), Get<int64_t>(parameters, "partition"),
        Get<int64_t>(parameters, "mlp_ratio"), Get<double>(parameters, "expansion"),
        Get<double>(parameters, "squeeze")};
    int64_t channels = Get<int64_t>(parameters, "stem_width");
    stem_ = register_module(
        "stem", Layers(MaxVitConvolution(Convolution(3, channels, 3, 2)),
                       Layers(nn::Conv2d(nn::Conv2dOptions(channels, channels, 3).padding(1)))));
    blocks_ = register_module("blocks", Layers());
    for (size_t i = 0; i < widths.size(); ++i) {
      blocks_->push_back(std::make_shared<MaxVitBlock>(channels, widths[i], depths[i], sizes));
      channels = widths[i];
    }
    classifier_ = register_module(
        "classifier",
        Layers(
            GlobalPool(), nn::Flatten(), LayerNorm(channels), Dense(channels, channels), nn::Tanh(),
            Dense(
                nn::LinearOptions(channels, Get<int64_t>(parameters, "num_classes")).bias(false))));
  }

  at::Tensor forward(const at::Tensor& input) {
    return classifier_->forward(blocks_->forward(stem_->forward(input)));
  }

 private:
  Layers stem_{nullptr}, blocks_{nullptr}, classifier_{nullptr};
};

class MaxVitFamily final : public Family {
 public:
  absl::string_view name() const override { return "maxvit"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const std::vector<Variant>& variants() const override { return variants_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& configured) const override {
    const std::string first = "blocks.0.layers.0.layers.";
    const std::string attention = first + "window_attention.attn_layer.1.";
    const int64_t rows = SizeOf(state, attention + "relative_position_bias_table", 0);
    const int64_t heads = SizeOf(state, attention + "relative_position_bias_table", 1);
    const int64_t width = SizeOf(state, first + "MBconv.layers.conv_c.weight", 0);
    const int64_t partition = WindowOfTable(rows);
    if (partition == 0 || heads == 0 || width == 0) {
      return absl::NotFoundError("no window attention in the first block");
    }
    const auto by_width = [&](int64_t size) {
      return static_cast<double>(size) / static_cast<double>(width);
    };
    std::vector<int64_t> widths, depths;
    for (int64_t i = 0; i < kMostStages; ++i) {
      const std::string layers = absl::StrCat("blocks.", i, ".layers.");
      const int64_t own = SizeOf(state, layers + "0.layers.MBconv.layers.conv_c.weight", 0);
      if (own == 0) break;
      widths.push_back(own);
      depths.push_back(CountBlocks(state, layers));
    }
    const size_t blocks = widths.size();
    const std::string convolutions = first + "MBconv.layers.";
    Inference inference{NumClasses(state, "classifier.5.weight")};
    inference.parameters.merge(Parameters{
        {"stem_width", SizeOf(state, "stem.0.0.weight", 0)},
        {"widths", std::move(widths)},
        {"depths", std::move(depths)},
        {"head_width", width / heads},
        {"partition", partition},
        {"mlp_ratio", SizeOf(state, first + "window_attention.mlp_layer.1.weight", 0) / width},
        {"expansion", by_width(SizeOf(state, convolutions + "conv_c.weight", 1))},
        {"squeeze", by_width(SizeOf(state, convolutions + "squeeze_excitation.fc1.weight", 0))}});
    // The smallest image that all blocks can cut; of the published sizes the usual one.
    const int64_t smallest = partition << (blocks + 1);
    if (smallest != kMaxVitImage && !configured.contains("image_size")) {
      inference.parameters["image_size"] = smallest;
      inference.assumed = Assumption(name(), "the size of an image is", "image_size", smallest);
    }
    return inference;
  }

  absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& parameters) const override {
    const absl::Status lengths = CheckLists(name(), parameters, {"widths", "depths"});
    if (!lengths.ok()) return lengths;
    const int64_t head_width = Get<int64_t>(parameters, "head_width");
    const int64_t partition = Get<int64_t>(parameters, "partition");
    const int64_t image_size = Get<int64_t>(parameters, "image_size");
    int64_t side = (image_size + 1) / 2;
    for (const int64_t width : Get<std::vector<int64_t>>(parameters, "widths")) {
      if (width % head_width != 0) {
        return absl::InvalidArgumentError(absl::StrCat("maxvit: widths: expected multiples of the ",
                                                       "head width ", head_width, ", got ", width));
      }
      side = (side + 1) / 2;
      if (side % partition != 0) {
        return absl::InvalidArgumentError(absl::StrCat(
            "maxvit: image_size: expected one that gives each block a multiple of ", partition,
            " places in each direction, got ", image_size, ", which gives ", side));
      }
    }
    return BuildModuleNet<MaxVitModule>(name(), "MaxVit", ImageClassifierSignature(parameters),
                                        parameters);
  }

 private:
  const std::vector<ParameterSpec> parameters_ = WithImageClassifierParameters(
      1,
      {{.name = "stem_width", .meaning = "channels of the first convolution"},
       {.name = "widths", .type = ParameterSpec::Type::kInts, .meaning = "channels of each block"},
       {.name = "depths", .type = ParameterSpec::Type::kInts, .meaning = "layers of each block"},
       {.name = "head_width", .default_value = int64_t{32}, .meaning = "channels of a head"},
       {.name = "partition",
        .default_value = int64_t{7},
        .meaning = "height and width of a window, and of a grid, in places"},
       {.name = "mlp_ratio",
        .default_value = int64_t{4},
        .meaning = "features within each perceptron, by those around it"},
       {.name = "expansion",
        .type = ParameterSpec::Type::kDouble,
        .default_value = 4.0,
        .meaning = "channels within each bottleneck, by those it gives"},
       {.name = "squeeze",
        .type = ParameterSpec::Type::kDouble,
        .default_value = 0.25,
        .meaning = "channels of each squeeze, by those the bottleneck gives"}});
  const std::vector<Variant> variants_ = {{"maxvit_t",
                                           {{"stem_width", int64_t{64}},
                                            {"widths", std::vector<int64_t>{64, 128, 256, 512}},
                                            {"depths", std::vector<int64_t>{2, 2, 5, 2}},
                                            {"head_width", int64_t{32}},
                                            {"partition", int64_t{7}},
                                            {"mlp_ratio", int64_t{4}},
                                            {"expansion", 4.0},
                                            {"squeeze", 0.25}}}};
};

}  // namespace

const Family& MaxVit() {
  static const auto* const family = new MaxVitFamily;
  return *family;
}

}  // namespace sconce::models
