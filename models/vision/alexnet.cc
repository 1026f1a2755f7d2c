// AlexNet as torchvision has it, with its parameter names.

#include <utility>

#include "models/families.h"
#include "models/vision/blocks.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

class AlexNetModule final : public PooledClassifier {
 public:
  explicit AlexNetModule(int64_t num_classes) {
    const auto relu = [] { return Activation(ActivationKind::kRelu); };
    const auto conv = [](int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding) {
      return nn::Conv2d(nn::Conv2dOptions(in, out, kernel).stride(stride).padding(padding));
    };
    features_ =
        register_module("features", Layers(conv(3, 64, 11, 4, 2), relu(), MaxPool(3, 2),
                                           conv(64, 192, 5, 1, 2), relu(), MaxPool(3, 2),
                                           conv(192, 384, 3, 1, 1), relu(), conv(384, 256, 3, 1, 1),
                                           relu(), conv(256, 256, 3, 1, 1), relu(), MaxPool(3, 2)));
    avgpool_ =
        register_module("avgpool", nn::AdaptiveAvgPool2d(nn::AdaptiveAvgPool2dOptions({6, 6})));
    classifier_ = register_module(
        "classifier", Layers(nn::Dropout(), nn::Linear(256 * 6 * 6, 4096), relu(), nn::Dropout(),
                             nn::Linear(4096, 4096), relu(), nn::Linear(4096, num_classes)));
  }
};

class AlexNetFamily final : public Family {
 public:
  absl::string_view name() const override { return "alexnet"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const std::vector<Variant>& variants() const override { return variants_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& /*configured*/) const override {
    const NamedShape* first = Find(state, "features.0.weight");
    if (first == nullptr || first->shape != std::vector<int64_t>{64, 3, 11, 11}) {
      return absl::NotFoundError("no 11x11 convolution to 64 channels at features.0");
    }
    return Inference{NumClasses(state, "classifier.6.weight")};
  }

  absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& parameters) const override {
    return BuildModuleNet<AlexNetModule>(name(), "AlexNet", ImageClassifierSignature(parameters),
                                         Get<int64_t>(parameters, "num_classes"));
  }

 private:
  // Below 63 pixels nothing is left for the last pooling.
  const std::vector<ParameterSpec> parameters_ = WithImageClassifierParameters(63, {});
  const std::vector<Variant> variants_;
};

}  // namespace

const Family& AlexNet() {
  static const auto* const family = new AlexNetFamily;
  return *family;
}

}  // namespace sconce::models
