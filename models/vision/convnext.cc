// ConvNeXt as torchvision has it, with its parameter names.
#include <ATen/ops/flatten.h>
#include <ATen/ops/layer_norm.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "models/families.h"
#include "models/vision/blocks.h"
#include "models/vision/transformer_blocks.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

constexpr double kConvNextEpsilon = 1e-6;

// Over the channels of images.
class ConvNextImageNormImpl final : public nn::LayerNormImpl {
 public:
  explicit ConvNextImageNormImpl(int64_t channels)
      : LayerNormImpl(nn::LayerNormOptions({channels}).eps(kConvNextEpsilon)) {}

  at::Tensor forward(const at::Tensor& x) {
    return LayerNormImpl::forward(x.permute({0, 2, 3, 1})).permute({0, 3, 1, 2});
  }
};
TORCH_MODULE(ConvNextImageNorm);

class ConvNextBlock final : public nn::Module {
 public:
  explicit ConvNextBlock(int64_t channels) {
    layer_scale_ = register_parameter("layer_scale", torch::ones({channels, 1, 1}));
    block_ = register_module(
        "block",
        Layers(nn::Conv2d(nn::Conv2dOptions(channels, channels, 7).padding(3).groups(channels)),
               Permute(std::vector<int64_t>{0, 2, 3, 1}), LayerNorm(channels, kConvNextEpsilon),
               Dense(channels, 4 * channels), nn::GELU(), Dense(4 * channels, channels),
               Permute(std::vector<int64_t>{0, 3, 1, 2})));
    register_module("stochastic_depth", PassThrough());
  }

  at::Tensor forward(const at::Tensor& input) {
    at::Tensor result = layer_scale_ * block_->forward(input);
    result += input;
    return result;
  }

 private:
  at::Tensor layer_scale_;
  Layers block_{nullptr};
};

class ConvNextModule final : public nn::Module {
 public:
  explicit ConvNextModule(const Parameters& parameters) {
    const auto& widths = Get<std::vector<int64_t>>(parameters, "widths");
    const auto& depths = Get<std::vector<int64_t>>(parameters, "depths");
    features_ = register_module("features", Layers());
    features_->push_back(Layers(nn::Conv2d(nn::Conv2dOptions(3, widths[0], 4).stride(4)),
                                ConvNextImageNorm(widths[0])));
    for (size_t i = 0; i < widths.size(); ++i) {
      Layers stage;
      for (int64_t block = 0; block < depths[i]; ++block) {
        stage->push_back(std::make_shared<ConvNextBlock>(widths[i]));
      }
      features_->push_back(stage);
      if (i + 1 == widths.size()) break;
      features_->push_back(
          Layers(ConvNextImageNorm(widths[i]),
                 nn::Conv2d(nn::Conv2dOptions(widths[i], widths[i + 1], 2).stride(2))));
    }
    avgpool_ = register_module("avgpool", GlobalPool());
    classifier_ = register_module(
        "classifier", Layers(ConvNextImageNorm(widths.back()), nn::Flatten(),
                             Dense(widths.back(), Get<int64_t>(parameters, "num_classes"))));
  }

  at::Tensor forward(const at::Tensor& input) {
    return classifier_->forward(avgpool_->forward(features_->forward(input)));
  }

 private:
  Layers features_{nullptr}, classifier_{nullptr};
  nn::AdaptiveAvgPool2d avgpool_{nullptr};
};

Parameters ConvNextVariant(int64_t width, int64_t third_depth) {
  return {{"widths", std::vector<int64_t>{width, 2 * width, 4 * width, 8 * width}},
          {"depths", std::vector<int64_t>{3, 3, third_depth, 3}}};
}

class ConvNextFamily final : public Family {
 public:
  absl::string_view name() const override { return "convnext"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const std::vector<Variant>& variants() const override { return variants_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& /*configured*/) const override {
    if (Find(state, "features.1.0.layer_scale") == nullptr) {
      return absl::NotFoundError("no layer scale at features.1.0");
    }
    std::vector<int64_t> widths, depths;
    for (int64_t i = 1; i < 2 * kMostStages; i += 2) {
      const std::string stage = absl::StrCat("features.", i, ".");
      const int64_t width = SizeOf(state, stage + "0.layer_scale", 0);
      if (width == 0) break;
      widths.push_back(width);
      depths.push_back(CountBlocks(state, stage));
    }
    Inference inference{NumClasses(state, "classifier.2.weight")};
    inference.parameters["widths"] = std::move(widths);
    inference.parameters["depths"] = std::move(depths);
    return inference;
  }

  absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& parameters) const override {
    const absl::Status lengths = CheckLists(name(), parameters, {"widths", "depths"});
    if (!lengths.ok()) return lengths;
    return BuildModuleNet<ConvNextModule>(name(), "ConvNeXt", ImageClassifierSignature(parameters),
                                          parameters);
  }

 private:
  const std::vector<ParameterSpec> parameters_ = WithImageClassifierParameters(
      32,
      {{.name = "widths", .type = ParameterSpec::Type::kInts, .meaning = "channels of each stage"},
       {.name = "depths", .type = ParameterSpec::Type::kInts, .meaning = "blocks of each stage"}});
  const std::vector<Variant> variants_ = {
      {"convnext_tiny", ConvNextVariant(96, 9)},
      {"convnext_small", ConvNextVariant(96, 27)},
      {"convnext_base", ConvNextVariant(128, 27)},
      {"convnext_large", ConvNextVariant(192, 27)},
  };
};

}  // namespace

const Family& ConvNext() {
  static const auto* const family = new ConvNextFamily;
  return *family;
}

}  // namespace sconce::models
