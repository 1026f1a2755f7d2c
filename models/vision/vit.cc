// Vision Transformer as torchvision has it, with its parameter names.
#include <ATen/ops/_native_multi_head_attention.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "models/families.h"
#include "models/vision/transformer_blocks.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

constexpr double kVitEpsilon = 1e-6;

// nn.MultiheadAttention of Python, of a tensor with itself: in inference mode it is one fused
// operator, unless the number of heads is odd.
class VitAttentionImpl final : public nn::Module {
 public:
  VitAttentionImpl(int64_t width, int64_t heads) : width_(width), heads_(heads) {
    in_proj_weight_ = register_parameter("in_proj_weight", torch::empty({3 * width, width}));
    in_proj_bias_ = register_parameter("in_proj_bias", torch::empty({3 * width}));
    out_proj_ = register_module("out_proj", Dense(width, width));
  }

  at::Tensor forward(const at::Tensor& x) {
    if (heads_ % 2 != 0) return Unfused(x.transpose(1, 0)).transpose(1, 0);
    return std::get<0>(at::_native_multi_head_attention(
        x, x, x, width_, heads_, in_proj_weight_, in_proj_bias_, out_proj_->weight, out_proj_->bias,
        /*mask=*/{}, /*need_weights=*/false));
  }

 private:
  // `x`: [places, batch, width].
  at::Tensor Unfused(const at::Tensor& x) {
    const int64_t places = x.size(0), batch = x.size(1);
    const at::Tensor projected = at::linear(x, in_proj_weight_, in_proj_bias_)
                                     .unflatten(-1, {3, width_})
                                     .unsqueeze(0)
                                     .transpose(0, -2)
                                     .squeeze(-2)
                                     .contiguous();
    const auto by_head = [&](const at::Tensor& part) {
      return part.view({places, batch * heads_, width_ / heads_})
          .transpose(0, 1)
          .view({batch, heads_, places, width_ / heads_});
    };
    const at::Tensor seen = at::scaled_dot_product_attention(
        by_head(projected[0]), by_head(projected[1]), by_head(projected[2]));
    const at::Tensor rows = seen.permute({2, 0, 1, 3}).contiguous().view({batch * places, width_});
    return out_proj_->forward(rows).view({places, batch, width_});
  }

  const int64_t width_, heads_;
  at::Tensor in_proj_weight_, in_proj_bias_;
  Dense out_proj_{nullptr};
};
TORCH_MODULE(VitAttention);

class VitBlock final : public nn::Module {
 public:
  VitBlock(int64_t width, int64_t heads, int64_t hidden) {
    ln_1_ = register_module("ln_1", LayerNorm(width, kVitEpsilon));
    self_attention_ = register_module("self_attention", VitAttention(width, heads));
    register_module("dropout", PassThrough());
    ln_2_ = register_module("ln_2", LayerNorm(width, kVitEpsilon));
    mlp_ = register_module("mlp", PerceptronWithGelu(width, hidden));
  }

  at::Tensor forward(const at::Tensor& input) {
    const at::Tensor x = self_attention_->forward(ln_1_->forward(input)) + input;
    return x + mlp_->forward(ln_2_->forward(x));
  }

 private:
  nn::LayerNorm ln_1_{nullptr}, ln_2_{nullptr};
  VitAttention self_attention_{nullptr};
  Layers mlp_{nullptr};
};

class VitEncoderImpl final : public nn::Module {
 public:
  VitEncoderImpl(const Parameters& parameters, int64_t places) {
    const int64_t width = Get<int64_t>(parameters, "width");
    pos_embedding_ = register_parameter("pos_embedding", torch::empty({1, places, width}));
    register_module("dropout", PassThrough());
    layers_ = register_module("layers", Layers());
    for (int64_t i = 0; i < Get<int64_t>(parameters, "layers"); ++i) {
      layers_->push_back(absl::StrCat("encoder_layer_", i),
                         std::make_shared<VitBlock>(width, Get<int64_t>(parameters, "heads"),
                                                    Get<int64_t>(parameters, "mlp_width")));
    }
    ln_ = register_module("ln", LayerNorm(width, kVitEpsilon));
  }

  at::Tensor forward(const at::Tensor& input) {
    return ln_->forward(layers_->forward(input + pos_embedding_));
  }

 private:
  at::Tensor pos_embedding_;
  Layers layers_{nullptr};
  nn::LayerNorm ln_{nullptr};
};
TORCH_MODULE(VitEncoder);

class VitModule final : public nn::Module {
 public:
  explicit VitModule(const Parameters& parameters) {
    const int64_t width = Get<int64_t>(parameters, "width");
    const int64_t patch = Get<int64_t>(parameters, "patch_size");
    const int64_t side = Get<int64_t>(parameters, "image_size") / patch;
    const int64_t representation = Get<int64_t>(parameters, "representation_size");
    const int64_t classes = Get<int64_t>(parameters, "num_classes");
    class_token_ = register_parameter("class_token", torch::zeros({1, 1, width}));
    conv_proj_ =
        register_module("conv_proj", nn::Conv2d(nn::Conv2dOptions(3, width, patch).stride(patch)));
    encoder_ = register_module("encoder", VitEncoder(parameters, side * side + 1));
    heads_ = register_module("heads", Layers());
    if (representation > 0) {
      heads_->push_back("pre_logits", Dense(width, representation));
      heads_->push_back("act", nn::Tanh());
    }
    heads_->push_back("head", Dense(representation > 0 ? representation : width, classes));
  }

  at::Tensor forward(const at::Tensor& input) {
    const at::Tensor patches = conv_proj_->forward(input);
    const int64_t batch = patches.size(0), width = patches.size(1);
    const at::Tensor places =
        patches.reshape({batch, width, patches.size(2) * patches.size(3)}).permute({0, 2, 1});
    const at::Tensor x = at::cat({class_token_.expand({batch, -1, -1}), places}, 1);
    return heads_->forward(encoder_->forward(x).select(1, 0));
  }

 private:
  at::Tensor class_token_;
  nn::Conv2d conv_proj_{nullptr};
  VitEncoder encoder_{nullptr};
  Layers heads_{nullptr};
};

Parameters VitVariant(int64_t patch_size, int64_t layers, int64_t heads, int64_t width) {
  return {{"patch_size", patch_size}, {"layers", layers},
          {"heads", heads},           {"width", width},
          {"mlp_width", 4 * width},   {"representation_size", int64_t{0}}};
}

class VitFamily final : public Family {
 public:
  absl::string_view name() const override { return "vit"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const std::vector<Variant>& variants() const override { return variants_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& configured) const override {
    const int64_t width = SizeOf(state, "class_token", 2);
    const int64_t patch = SizeOf(state, "conv_proj.weight", 2);
    const int64_t places = SizeOf(state, "encoder.pos_embedding", 1);
    if (width == 0 || patch == 0 || places == 0) {
      return absl::NotFoundError("no class_token, conv_proj and encoder.pos_embedding");
    }
    const auto side = static_cast<int64_t>(std::llround(std::sqrt(places - 1)));
    const std::string first = "encoder.layers.encoder_layer_0.mlp.";
    int64_t mlp_width = SizeOf(state, first + "0.weight", 0);
    if (mlp_width == 0) mlp_width = SizeOf(state, first + "linear_1.weight", 0);
    const int64_t layers = CountBlocks(state, "encoder.layers.encoder_layer_");
    Inference inference{NumClasses(state, "heads.head.weight")};
    inference.parameters.merge(
        Parameters{{"patch_size", patch},
                   {"layers", layers},
                   {"width", width},
                   {"mlp_width", mlp_width},
                   {"image_size", side * patch},
                   {"representation_size", SizeOf(state, "heads.pre_logits.weight", 0)}});
    if (!configured.contains("heads")) {
      inference.assumed = Assumption(name(), "the number of attention heads is", "heads",
                                     std::max<int64_t>(1, width / 64));
    }
    return inference;
  }

  // What torchvision up to 0.12 called the perceptron's layers.
  std::string NameOf(const std::string& saved) const override {
    if (!absl::StrContains(saved, ".mlp.linear_")) return saved;
    return absl::StrReplaceAll(saved,
                               {{".mlp.linear_1.", ".mlp.0."}, {".mlp.linear_2.", ".mlp.3."}});
  }

  absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& given) const override {
    Parameters parameters = given;
    const int64_t width = Get<int64_t>(parameters, "width");
    int64_t heads = Get<int64_t>(parameters, "heads");
    if (heads == 0) heads = std::max<int64_t>(1, width / 64);
    parameters["heads"] = heads;
    if (width % heads != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "vit: heads: expected a number that divides the width ", width, ", got ", heads));
    }
    const int64_t image_size = Get<int64_t>(parameters, "image_size");
    if (const int64_t patch = Get<int64_t>(parameters, "patch_size"); image_size % patch != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "vit: image_size: expected a multiple of the patch size ", patch, ", got ", image_size));
    }
    return BuildModuleNet<VitModule>(name(), "VisionTransformer",
                                     ImageClassifierSignature(parameters), parameters);
  }

 private:
  const std::vector<ParameterSpec> parameters_ = WithImageClassifierParameters(
      1, {{.name = "patch_size", .meaning = "height and width of a patch in pixels"},
          {.name = "layers", .meaning = "layers of the encoder"},
          {.name = "heads",
           .default_value = int64_t{0},
           .meaning = "attention heads; 0: one for each 64 of the width",
           .minimum = 0},
          {.name = "width", .meaning = "features of each patch"},
          {.name = "mlp_width", .meaning = "features within each layer's perceptron"},
          {.name = "representation_size",
           .default_value = int64_t{0},
           .meaning = "features of a layer before the last; 0: there is none",
           .minimum = 0}});
  const std::vector<Variant> variants_ = {
      {"vit_b_16", VitVariant(16, 12, 12, 768)},  {"vit_b_32", VitVariant(32, 12, 12, 768)},
      {"vit_l_16", VitVariant(16, 24, 16, 1024)}, {"vit_l_32", VitVariant(32, 24, 16, 1024)},
      {"vit_h_14", VitVariant(14, 32, 16, 1280)},
  };
};

}  // namespace

const Family& Vit() {
  static const auto* const family = new VitFamily;
  return *family;
}

}  // namespace sconce::models
