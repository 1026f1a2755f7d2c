// DenseNet as torchvision has it, with its parameter names and their older spelling.
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/flatten.h>
#include <ATen/ops/relu.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/families.h"
#include "models/vision/blocks.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

// Adds channels to what all the layers before it gave.
class DenseNetLayer final : public nn::Module {
 public:
  DenseNetLayer(int64_t in, int64_t bottleneck, int64_t growth_rate) {
    norm1_ = register_module("norm1", BatchNorm(in));
    relu1_ = register_module("relu1", Activation(ActivationKind::kRelu));
    conv1_ = register_module("conv1", Convolution(in, bottleneck, 1));
    norm2_ = register_module("norm2", NormAfter(conv1_));
    relu2_ = register_module("relu2", Activation(ActivationKind::kRelu));
    conv2_ = register_module("conv2", Convolution(bottleneck, growth_rate, 3));
  }

  at::Tensor forward(const std::vector<at::Tensor>& features) {
    const at::Tensor x = conv1_->forward(relu1_->forward(norm1_->forward(at::cat(features, 1))));
    return conv2_->forward(relu2_->forward(norm2_->forward(x)));
  }

 private:
  nn::BatchNorm2d norm1_{nullptr};
  FoldableNorm norm2_{nullptr};
  Activation relu1_{nullptr}, relu2_{nullptr};
  nn::Conv2d conv1_{nullptr}, conv2_{nullptr};
};

class DenseNetBlock final : public nn::Module {
 public:
  DenseNetBlock(int64_t layers, int64_t in, int64_t bottleneck, int64_t growth_rate) {
    for (int64_t i = 0; i < layers; ++i) {
      layers_.push_back(register_module(
          absl::StrCat("denselayer", i + 1),
          std::make_shared<DenseNetLayer>(in + i * growth_rate, bottleneck, growth_rate)));
    }
  }

  at::Tensor forward(const at::Tensor& input) {
    std::vector<at::Tensor> features = {input};
    for (const std::shared_ptr<DenseNetLayer>& layer : layers_) {
      features.push_back(layer->forward(features));
    }
    return at::cat(features, 1);
  }

 private:
  std::vector<std::shared_ptr<DenseNetLayer>> layers_;
};

// Halves the channels and the image.
Layers DenseNetTransition(int64_t in) {
  Layers layers;
  layers->push_back("norm", BatchNorm(in));
  layers->push_back("relu", Activation(ActivationKind::kRelu));
  layers->push_back("conv", Convolution(in, in / 2, 1));
  layers->push_back("pool", nn::AvgPool2d(nn::AvgPool2dOptions(2).stride(2)));
  return layers;
}

class DenseNetModule final : public nn::Module {
 public:
  explicit DenseNetModule(const Parameters& parameters) {
    const auto& blocks = Get<std::vector<int64_t>>(parameters, "blocks");
    const int64_t growth_rate = Get<int64_t>(parameters, "growth_rate");
    const int64_t bottleneck = Get<int64_t>(parameters, "bottleneck_factor") * growth_rate;
    int64_t channels = Get<int64_t>(parameters, "stem_width");
    features_ = register_module("features", Layers());
    const nn::Conv2d stem = Convolution(3, channels, 7, 2);
    features_->push_back("conv0", stem);
    features_->push_back("norm0", NormAfter(stem));
    features_->push_back("relu0", Activation(ActivationKind::kRelu));
    features_->push_back("pool0", MaxPool(3, 2, 1));
    for (size_t i = 0; i < blocks.size(); ++i) {
      features_->push_back(
          absl::StrCat("denseblock", i + 1),
          std::make_shared<DenseNetBlock>(blocks[i], channels, bottleneck, growth_rate));
      channels += blocks[i] * growth_rate;
      if (i + 1 == blocks.size()) break;
      features_->push_back(absl::StrCat("transition", i + 1), DenseNetTransition(channels));
      channels /= 2;
    }
    features_->push_back("norm5", BatchNorm(channels));
    classifier_ = register_module("classifier",
                                  nn::Linear(channels, Get<int64_t>(parameters, "num_classes")));
  }

  at::Tensor forward(const at::Tensor& input) {
    at::Tensor x = features_->forward(input);
    at::relu_(x);
    x = at::adaptive_avg_pool2d(x, {1, 1});
    return classifier_->forward(at::flatten(x, 1));
  }

 private:
  Layers features_{nullptr};
  nn::Linear classifier_{nullptr};
};

Parameters DenseNetVariant(std::vector<int64_t> blocks, int64_t growth_rate = 32,
                           int64_t stem_width = 64) {
  return {{"blocks", std::move(blocks)},
          {"growth_rate", growth_rate},
          {"stem_width", stem_width},
          {"bottleneck_factor", int64_t{4}}};
}

class DenseNetFamily final : public Family {
 public:
  absl::string_view name() const override { return "densenet"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const std::vector<Variant>& variants() const override { return variants_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& /*configured*/) const override {
    if (Find(state, "features.denseblock1.denselayer1.norm1.weight") == nullptr &&
        Find(state, "features.denseblock1.denselayer1.norm.1.weight") == nullptr) {
      return absl::NotFoundError("no layer at features.denseblock1.denselayer1");
    }
    const LayerShapes layers(state);
    // The number of a convolution follows a dot in the older spelling.
    const auto convolution = [&](const std::string& layer, int number) {
      const auto own = layers.Convolution(absl::StrCat(layer, ".conv", number));
      return own ? own : layers.Convolution(absl::StrCat(layer, ".conv.", number));
    };
    std::vector<int64_t> blocks;
    for (;;) {
      const std::string block = absl::StrCat("features.denseblock", blocks.size() + 1);
      int64_t count = 0;
      while (convolution(absl::StrCat(block, ".denselayer", count + 1), 1)) ++count;
      if (count == 0) break;
      blocks.push_back(count);
    }
    const auto stem = layers.Convolution("features.conv0");
    const auto narrow = convolution("features.denseblock1.denselayer1", 1);
    const auto grow = convolution("features.denseblock1.denselayer1", 2);
    if (!stem || !narrow || !grow) return absl::NotFoundError("no convolutions in features");
    Inference inference{NumClasses(state, "classifier.weight")};
    inference.parameters.merge(Parameters{{"blocks", std::move(blocks)},
                                          {"growth_rate", grow->out},
                                          {"stem_width", stem->out},
                                          {"bottleneck_factor", narrow->out / grow->out}});
    return inference;
  }

  // torchvision's own files call a layer's parts "norm.1" and "conv.2", from before dots in the
  // names of modules were forbidden.
  std::string NameOf(const std::string& saved) const override {
    constexpr absl::string_view kLayer = "denselayer";
    for (const absl::string_view part : {".norm.", ".conv.", ".relu."}) {
      const size_t at = saved.find(part.data(), 0, part.size());
      if (at == saved.npos || at + part.size() + 2 > saved.size()) continue;
      const absl::string_view before = absl::string_view(saved).substr(0, at);
      const size_t layer = before.rfind(kLayer);
      if (layer == before.npos) continue;
      const absl::string_view number = before.substr(layer + kLayer.size());
      const absl::string_view after = absl::string_view(saved).substr(at + part.size());
      const bool numbered =
          !number.empty() && number.find_first_not_of("0123456789") == number.npos;
      if (numbered && (absl::StartsWith(after, "1.") || absl::StartsWith(after, "2."))) {
        return absl::StrCat(before, part.substr(0, part.size() - 1), after);
      }
    }
    return saved;
  }

  absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& parameters) const override {
    const absl::Status blocks = CheckLists(name(), parameters, {"blocks"});
    if (!blocks.ok()) return blocks;
    return BuildModuleNet<DenseNetModule>(name(), "DenseNet", ImageClassifierSignature(parameters),
                                          parameters);
  }

 private:
  // Below 29 pixels nothing is left for the last transition.
  const std::vector<ParameterSpec> parameters_ = WithImageClassifierParameters(
      29, {{.name = "blocks",
            .type = ParameterSpec::Type::kInts,
            .meaning = "layers of each dense block"},
           {.name = "growth_rate", .meaning = "channels that each layer adds"},
           {.name = "stem_width", .meaning = "channels of the first convolution"},
           {.name = "bottleneck_factor",
            .default_value = int64_t{4},
            .meaning = "channels within a layer for each that it adds"}});
  const std::vector<Variant> variants_ = {
      {"densenet121", DenseNetVariant({6, 12, 24, 16})},
      {"densenet161", DenseNetVariant({6, 12, 36, 24}, 48, 96)},
      {"densenet169", DenseNetVariant({6, 12, 32, 32})},
      {"densenet201", DenseNetVariant({6, 12, 48, 32})},
  };
};

}  // namespace

const Family& DenseNet() {
  static const auto* const family = new DenseNetFamily;
  return *family;
}

}  // namespace sconce::models
