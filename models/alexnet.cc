// AlexNet as torchvision has it, with its parameter names.
#include <ATen/ops/flatten.h>

#include <utility>

#include "models/families.h"
#include "models/module_net.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

class AlexNetModule final : public nn::Module {
 public:
  explicit AlexNetModule(int64_t num_classes) {
    const auto relu = [] { return nn::ReLU(nn::ReLUOptions(/*inplace=*/true)); };
    const auto pool = [] { return nn::MaxPool2d(nn::MaxPool2dOptions(3).stride(2)); };
    const auto conv = [](int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding) {
      return nn::Conv2d(nn::Conv2dOptions(in, out, kernel).stride(stride).padding(padding));
    };
    features_ = register_module(
        "features",
        nn::Sequential(conv(3, 64, 11, 4, 2), relu(), pool(), conv(64, 192, 5, 1, 2), relu(),
                       pool(), conv(192, 384, 3, 1, 1), relu(), conv(384, 256, 3, 1, 1), relu(),
                       conv(256, 256, 3, 1, 1), relu(), pool()));
    avgpool_ =
        register_module("avgpool", nn::AdaptiveAvgPool2d(nn::AdaptiveAvgPool2dOptions({6, 6})));
    classifier_ =
        register_module("classifier", nn::Sequential(nn::Dropout(), nn::Linear(256 * 6 * 6, 4096),
                                                     relu(), nn::Dropout(), nn::Linear(4096, 4096),
                                                     relu(), nn::Linear(4096, num_classes)));
  }

  at::Tensor forward(const at::Tensor& input) {
    const at::Tensor x = avgpool_->forward(features_->forward(input));
    return classifier_->forward(at::flatten(x, 1));
  }

 private:
  nn::Sequential features_{nullptr}, classifier_{nullptr};
  nn::AdaptiveAvgPool2d avgpool_{nullptr};
};

class AlexNetArchitecture final : public Architecture {
 public:
  absl::string_view name() const override { return "alexnet"; }
  absl::string_view family() const override { return "alexnet"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& /*configured*/) const override {
    return Inference{NumClasses(state, "classifier.6.weight"), ""};
  }

  absl::StatusOr<std::unique_ptr<Net>> Create(const Parameters& parameters) const override {
    absl::StatusOr<Parameters> complete = CompleteParameters(*this, parameters);
    if (!complete.ok()) return complete.status();
    return BuildModuleNet<AlexNetModule>(*this, "AlexNet", ImageClassifierSignature(*complete),
                                         Get<int64_t>(*complete, "num_classes"));
  }

 private:
  // Below 63 pixels nothing is left for the last pooling.
  const std::vector<ParameterSpec> parameters_ = ImageClassifierParameters(63);
};

}  // namespace

const Architecture* AlexNet() {
  static const auto* const architecture = new AlexNetArchitecture;
  return architecture;
}

}  // namespace sconce::models
