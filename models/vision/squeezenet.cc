// SqueezeNet 1.0 and 1.1 as torchvision has them, with its parameter names.
#include <ATen/ops/cat.h>
#include <ATen/ops/flatten.h>

#include <utility>

#include "models/families.h"
#include "models/vision/blocks.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

// Narrowed by a 1x1 convolution, then widened by a 1x1 and a 3x3 convolution side by side.
class SqueezeNetFire final : public nn::Module {
 public:
  SqueezeNetFire(int64_t in, int64_t squeezed, int64_t expanded) {
    const auto convolution = [](int64_t from, int64_t to, int64_t kernel) {
      return nn::Conv2d(nn::Conv2dOptions(from, to, kernel).padding(kernel / 2));
    };
    const auto relu = [] { return Activation(ActivationKind::kRelu); };
    squeeze_ = register_module("squeeze", convolution(in, squeezed, 1));
    squeeze_activation_ = register_module("squeeze_activation", relu());
    expand1x1_ = register_module("expand1x1", convolution(squeezed, expanded, 1));
    expand1x1_activation_ = register_module("expand1x1_activation", relu());
    expand3x3_ = register_module("expand3x3", convolution(squeezed, expanded, 3));
    expand3x3_activation_ = register_module("expand3x3_activation", relu());
  }

  at::Tensor forward(const at::Tensor& input) {
    const at::Tensor x = squeeze_activation_->forward(squeeze_->forward(input));
    return at::cat({expand1x1_activation_->forward(expand1x1_->forward(x)),
                    expand3x3_activation_->forward(expand3x3_->forward(x))},
                   1);
  }

 private:
  nn::Conv2d squeeze_{nullptr}, expand1x1_{nullptr}, expand3x3_{nullptr};
  Activation squeeze_activation_{nullptr}, expand1x1_activation_{nullptr},
      expand3x3_activation_{nullptr};
};

class SqueezeNetModule final : public nn::Module {
 public:
  explicit SqueezeNetModule(const Parameters& parameters) {
    const bool first_version = Get<std::string>(parameters, "version") == "1_0";
    const auto relu = [] { return Activation(ActivationKind::kRelu); };
    features_ = register_module("features", Layers());
    int64_t channels = first_version ? 96 : 64;
    features_->push_back(
        nn::Conv2d(nn::Conv2dOptions(3, channels, first_version ? 7 : 3).stride(2)));
    features_->push_back(relu());
    constexpr int64_t kSqueezed[] = {16, 16, 32, 32, 48, 48, 64, 64};
    for (int64_t i = 0; i < 8; ++i) {
      // Both have three poolings; 1.1 has them earlier, which makes it faster.
      const bool pooled = first_version ? i == 0 || i == 3 || i == 7 : i == 0 || i == 2 || i == 4;
      if (pooled) features_->push_back(MaxPool(3, 2, 0, /*ceil_mode=*/true));
      features_->push_back(
          std::make_shared<SqueezeNetFire>(channels, kSqueezed[i], 4 * kSqueezed[i]));
      channels = 2 * 4 * kSqueezed[i];
    }
    classifier_ = register_module(
        "classifier",
        Layers(nn::Dropout(),
               nn::Conv2d(nn::Conv2dOptions(channels, Get<int64_t>(parameters, "num_classes"), 1)),
               relu(), GlobalPool()));
  }

  at::Tensor forward(const at::Tensor& input) {
    return at::flatten(classifier_->forward(features_->forward(input)), 1);
  }

 private:
  Layers features_{nullptr}, classifier_{nullptr};
};

class SqueezeNetFamily final : public Family {
 public:
  absl::string_view name() const override { return "squeezenet"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const std::vector<Variant>& variants() const override { return variants_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& /*configured*/) const override {
    const NamedShape* first = Find(state, "features.0.weight");
    const NamedShape* fire = Find(state, "features.3.squeeze.weight");
    if (first == nullptr || first->shape.size() != 4 || fire == nullptr) {
      return absl::NotFoundError("no convolutions at features.0 and features.3.squeeze");
    }
    Inference inference;
    inference.parameters["version"] = std::string(first->shape[2] == 7 ? "1_0" : "1_1");
    const NamedShape* last = Find(state, "classifier.1.weight");
    if (last != nullptr && last->shape.size() == 4) {
      inference.parameters["num_classes"] = last->shape[0];
    }
    return inference;
  }

  absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& parameters) const override {
    return BuildModuleNet<SqueezeNetModule>(name(), "SqueezeNet",
                                            ImageClassifierSignature(parameters), parameters);
  }

 private:
  // Below 17 pixels (21 in 1.0) nothing is left for the last pooling.
  const std::vector<ParameterSpec> parameters_ =
      WithImageClassifierParameters(17, {{.name = "version",
                                          .type = ParameterSpec::Type::kString,
                                          .default_value = std::string("1_1"),
                                          .meaning = "where the poolings are",
                                          .choices = {"1_0", "1_1"}}});
  const std::vector<Variant> variants_ = {
      {"squeezenet1_0", {{"version", std::string("1_0")}}},
      {"squeezenet1_1", {{"version", std::string("1_1")}}},
  };
};

}  // namespace

const Family& SqueezeNet() {
  static const auto* const family = new SqueezeNetFamily;
  return *family;
}

}  // namespace sconce::models
