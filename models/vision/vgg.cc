// VGG-11 to -19, with and without batch norm, as torchvision has them, with its parameter names.

#include <utility>

#include "absl/strings/str_cat.h"
#include "models/families.h"
#include "models/vision/blocks.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

// In the list of layers, beside the channels of convolutions.
constexpr int64_t kVggPooling = 0;
constexpr int64_t kVggPooledSize = 7;

class VggModule final : public PooledClassifier {
 public:
  explicit VggModule(const Parameters& parameters) {
    const int64_t hidden = Get<int64_t>(parameters, "hidden_width");
    const auto relu = [] { return Activation(ActivationKind::kRelu); };
    features_ = register_module("features", Layers());
    int64_t channels = 3;
    for (const int64_t width : Get<std::vector<int64_t>>(parameters, "layers")) {
      if (width == kVggPooling) {
        features_->push_back(MaxPool(2, 2));
        continue;
      }
      const nn::Conv2d convolution(nn::Conv2dOptions(channels, width, 3).padding(1));
      features_->push_back(convolution);
      if (Get<bool>(parameters, "batch_norm")) features_->push_back(NormAfter(convolution));
      features_->push_back(relu());
      channels = width;
    }
    avgpool_ = register_module(
        "avgpool",
        nn::AdaptiveAvgPool2d(nn::AdaptiveAvgPool2dOptions({kVggPooledSize, kVggPooledSize})));
    classifier_ = register_module(
        "classifier", Layers(nn::Linear(channels * kVggPooledSize * kVggPooledSize, hidden), relu(),
                             nn::Dropout(), nn::Linear(hidden, hidden), relu(), nn::Dropout(),
                             nn::Linear(hidden, Get<int64_t>(parameters, "num_classes"))));
  }
};

// The five stages of that many convolutions, each stage ended by a pooling.
Parameters VggVariant(const std::vector<int64_t>& convolutions, bool batch_norm) {
  constexpr int64_t kWidths[] = {64, 128, 256, 512, 512};
  std::vector<int64_t> layers;
  for (size_t stage = 0; stage < convolutions.size(); ++stage) {
    layers.insert(layers.end(), convolutions[stage], kWidths[stage]);
    layers.push_back(kVggPooling);
  }
  return {
      {"layers", std::move(layers)}, {"batch_norm", batch_norm}, {"hidden_width", int64_t{4096}}};
}

class VggFamily final : public Family {
 public:
  absl::string_view name() const override { return "vgg"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const std::vector<Variant>& variants() const override { return variants_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& /*configured*/) const override {
    const NamedShape* hidden = Find(state, "classifier.0.weight");
    const NamedShape* first = Find(state, "features.0.weight");
    if (hidden == nullptr || hidden->shape.size() != 2 || first == nullptr ||
        first->shape.size() != 4) {
      return absl::NotFoundError("no convolution at features.0 or no layer at classifier.0");
    }
    const LayerShapes layers(state);
    const bool batch_norm = layers.Has("features.1.running_mean");
    // A convolution, perhaps its batch norm, and ReLU; where the next one is not a convolution, it
    // is a pooling, and there is one at the end.
    std::vector<int64_t> found;
    for (int64_t position = 0;;) {
      if (const auto convolution = layers.Convolution(absl::StrCat("features.", position))) {
        found.push_back(convolution->out);
        position += batch_norm ? 3 : 2;
        continue;
      }
      found.push_back(kVggPooling);
      ++position;
      if (!layers.Convolution(absl::StrCat("features.", position))) break;
    }
    Inference inference{NumClasses(state, "classifier.6.weight")};
    inference.parameters.merge(Parameters{{"layers", std::move(found)},
                                          {"batch_norm", batch_norm},
                                          {"hidden_width", hidden->shape[0]}});
    return inference;
  }

  absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& parameters) const override {
    const absl::Status layers = CheckLists(name(), parameters, {"layers"});
    if (!layers.ok()) return layers;
    return BuildModuleNet<VggModule>(name(), "VGG", ImageClassifierSignature(parameters),
                                     parameters);
  }

 private:
  // Five poolings halve the image.
  const std::vector<ParameterSpec> parameters_ = WithImageClassifierParameters(
      32, {{.name = "layers",
            .type = ParameterSpec::Type::kInts,
            .meaning = "channels of each 3x3 convolution, and 0 for each pooling",
            .minimum = kVggPooling},
           {.name = "batch_norm",
            .type = ParameterSpec::Type::kBool,
            .default_value = false,
            .meaning = "whether a batch norm follows each convolution"},
           {.name = "hidden_width",
            .default_value = int64_t{4096},
            .meaning = "features between the layers of the classifier"}});
  const std::vector<Variant> variants_ = {
      {"vgg11", VggVariant({1, 1, 2, 2, 2}, false)},
      {"vgg11_bn", VggVariant({1, 1, 2, 2, 2}, true)},
      {"vgg13", VggVariant({2, 2, 2, 2, 2}, false)},
      {"vgg13_bn", VggVariant({2, 2, 2, 2, 2}, true)},
      {"vgg16", VggVariant({2, 2, 3, 3, 3}, false)},
      {"vgg16_bn", VggVariant({2, 2, 3, 3, 3}, true)},
      {"vgg19", VggVariant({2, 2, 4, 4, 4}, false)},
      {"vgg19_bn", VggVariant({2, 2, 4, 4, 4}, true)},
  };
};

}  // namespace

const Family& Vgg() {
  static const auto* const family = new VggFamily;
  return *family;
}

}  // namespace sconce::models
