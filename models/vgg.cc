// VGG-11 to -19, with and without batch norm, as torchvision has them, with its parameter names.
#include <ATen/ops/flatten.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "models/families.h"
#include "models/module_net.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

// Five stages of 3x3 convolutions, each ended by a pooling that halves the image.
constexpr int kStages = 5;
constexpr int64_t kStageWidth[kStages] = {64, 128, 256, 512, 512};

struct VggVariant {
  int layers;  // as in the name: convolutions and three Linear layers
  int convolutions[kStages];
};

constexpr VggVariant kVggVariants[] = {
    {11, {1, 1, 2, 2, 2}}, {13, {2, 2, 2, 2, 2}}, {16, {2, 2, 3, 3, 3}}, {19, {2, 2, 4, 4, 4}}};

class VggModule final : public nn::Module {
 public:
  VggModule(const VggVariant& variant, bool batch_norm, int64_t num_classes) {
    features_ = register_module("features", nn::Sequential());
    int64_t channels = 3;
    for (int stage = 0; stage < kStages; ++stage) {
      for (int i = 0; i < variant.convolutions[stage]; ++i) {
        const int64_t width = kStageWidth[stage];
        features_->push_back(nn::Conv2d(nn::Conv2dOptions(channels, width, 3).padding(1)));
        if (batch_norm) features_->push_back(nn::BatchNorm2d(width));
        features_->push_back(nn::ReLU(nn::ReLUOptions(/*inplace=*/true)));
        channels = width;
      }
      features_->push_back(nn::MaxPool2d(nn::MaxPool2dOptions(2).stride(2)));
    }
    avgpool_ =
        register_module("avgpool", nn::AdaptiveAvgPool2d(nn::AdaptiveAvgPool2dOptions({7, 7})));
    const auto relu = [] { return nn::ReLU(nn::ReLUOptions(/*inplace=*/true)); };
    classifier_ =
        register_module("classifier", nn::Sequential(nn::Linear(512 * 7 * 7, 4096), relu(),
                                                     nn::Dropout(), nn::Linear(4096, 4096), relu(),
                                                     nn::Dropout(), nn::Linear(4096, num_classes)));
  }

  at::Tensor forward(const at::Tensor& input) {
    const at::Tensor x = avgpool_->forward(features_->forward(input));
    return classifier_->forward(at::flatten(x, 1));
  }

 private:
  nn::Sequential features_{nullptr}, classifier_{nullptr};
  nn::AdaptiveAvgPool2d avgpool_{nullptr};
};

class VggArchitecture final : public Architecture {
 public:
  VggArchitecture(const VggVariant& variant, bool batch_norm)
      : name_(absl::StrCat("vgg", variant.layers, batch_norm ? "_bn" : "")),
        variant_(variant),
        batch_norm_(batch_norm) {}

  absl::string_view name() const override { return name_; }
  absl::string_view family() const override { return "vgg"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& /*configured*/) const override {
    return Inference{NumClasses(state, "classifier.6.weight"), ""};
  }

  absl::StatusOr<std::unique_ptr<Net>> Create(const Parameters& parameters) const override {
    absl::StatusOr<Parameters> complete = CompleteParameters(*this, parameters);
    if (!complete.ok()) return complete.status();
    return BuildModuleNet<VggModule>(*this, "VGG", ImageClassifierSignature(*complete), variant_,
                                     batch_norm_, Get<int64_t>(*complete, "num_classes"));
  }

 private:
  const std::string name_;
  const VggVariant& variant_;
  const bool batch_norm_;
  // Five poolings halve the image.
  const std::vector<ParameterSpec> parameters_ = ImageClassifierParameters(32);
};

}  // namespace

std::vector<const Architecture*> Vggs() {
  std::vector<const Architecture*> all;
  for (const VggVariant& variant : kVggVariants) {
    all.push_back(new VggArchitecture(variant, /*batch_norm=*/false));
    all.push_back(new VggArchitecture(variant, /*batch_norm=*/true));
  }
  return all;
}

}  // namespace sconce::models
