// MobileNet v2 as torchvision has it, with its parameter names.
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/flatten.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "models/families.h"
#include "models/vision/blocks.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

// Widened by a 1x1 convolution, filtered channel by channel, narrowed again.
class MobileNetV2Block final : public nn::Module {
 public:
  MobileNetV2Block(int64_t in, int64_t expanded, int64_t out, int64_t stride)
      : residual_(stride == 1 && in == out) {
    conv_ = register_module("conv", Layers());
    if (expanded != in) {
      conv_->push_back(ConvNormActivation(Convolution(in, expanded, 1), ActivationKind::kRelu6));
    }
    conv_->push_back(ConvNormActivation(Convolution(expanded, expanded, 3, stride, expanded),
                                        ActivationKind::kRelu6));
    AppendConvNorm(conv_, Convolution(expanded, out, 1));
  }

  at::Tensor forward(const at::Tensor& input) {
    return residual_ ? input + conv_->forward(input) : conv_->forward(input);
  }

 private:
  const bool residual_;
  Layers conv_{nullptr};
};

class MobileNetV2Module final : public nn::Module {
 public:
  explicit MobileNetV2Module(const Parameters& parameters) {
    const auto& widths = Get<std::vector<int64_t>>(parameters, "widths");
    const auto& expanded = Get<std::vector<int64_t>>(parameters, "expanded_widths");
    const auto& strides = Get<std::vector<int64_t>>(parameters, "strides");
    const int64_t last_width = Get<int64_t>(parameters, "last_width");
    int64_t channels = Get<int64_t>(parameters, "stem_width");
    features_ = register_module("features", Layers());
    features_->push_back(
        ConvNormActivation(Convolution(3, channels, 3, 2), ActivationKind::kRelu6));
    for (size_t i = 0; i < widths.size(); ++i) {
      features_->push_back(
          std::make_shared<MobileNetV2Block>(channels, expanded[i], widths[i], strides[i]));
      channels = widths[i];
    }
    features_->push_back(
        ConvNormActivation(Convolution(channels, last_width, 1), ActivationKind::kRelu6));
    classifier_ = register_module(
        "classifier",
        Layers(nn::Dropout(), nn::Linear(last_width, Get<int64_t>(parameters, "num_classes"))));
  }

  at::Tensor forward(const at::Tensor& input) {
    const at::Tensor x = at::adaptive_avg_pool2d(features_->forward(input), {1, 1});
    return classifier_->forward(at::flatten(x, 1));
  }

 private:
  Layers features_{nullptr}, classifier_{nullptr};
};

class MobileNetV2Family final : public Family {
 public:
  absl::string_view name() const override { return "mobilenetv2"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const std::vector<Variant>& variants() const override { return variants_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& configured) const override {
    if (Find(state, "features.1.conv.0.0.weight") == nullptr) {
      return absl::NotFoundError("no convolution at features.1.conv.0.0");
    }
    const LayerShapes layers(state);
    std::vector<int64_t> widths, expanded;
    for (size_t i = 1;; ++i) {
      const std::string block = absl::StrCat("features.", i, ".conv.");
      const auto first = layers.Convolution(block + "0.0");
      if (!first) break;
      const auto narrowing = layers.Has(block + "1.0.weight") ? layers.Convolution(block + "2")
                                                              : layers.Convolution(block + "1");
      if (!narrowing) return absl::NotFoundError(absl::StrCat("no last convolution in ", block));
      expanded.push_back(first->out);
      widths.push_back(narrowing->out);
    }
    const auto stem = layers.Convolution("features.0.0");
    const auto last = layers.Convolution(absl::StrCat("features.", widths.size() + 1, ".0"));
    if (!stem || !last) return absl::NotFoundError("no first or last convolution in features");

    Inference inference{NumClasses(state, "classifier.1.weight")};
    // The same networks of other widths have as many blocks.
    const auto& usual = std::get<std::vector<int64_t>>(variants_[0].fixed.at("strides"));
    const bool usual_depth = widths.size() == usual.size();
    std::vector<int64_t> strides = usual_depth ? usual : StridesByWidth(widths);
    if (!usual_depth && !configured.contains("strides")) {
      inference.assumed = Assumption(name(), "the strides are", "strides", strides);
    }
    inference.parameters.merge(Parameters{{"stem_width", stem->out},
                                          {"widths", std::move(widths)},
                                          {"expanded_widths", std::move(expanded)},
                                          {"strides", std::move(strides)},
                                          {"last_width", last->out}});
    return inference;
  }

  absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& parameters) const override {
    const absl::Status lengths =
        CheckLists(name(), parameters, {"widths", "expanded_widths", "strides"});
    if (!lengths.ok()) return lengths;
    return BuildModuleNet<MobileNetV2Module>(name(), "MobileNetV2",
                                             ImageClassifierSignature(parameters), parameters);
  }

 private:
  static Parameters Fixed() {
    struct Stage {
      int64_t expansion, width, blocks, stride;
    };
    constexpr Stage kStages[] = {{1, 16, 1, 1}, {6, 24, 2, 2},  {6, 32, 3, 2}, {6, 64, 4, 2},
                                 {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}};
    constexpr int64_t kStemWidth = 32;
    std::vector<int64_t> widths, expanded, strides;
    for (const Stage& stage : kStages) {
      for (int64_t i = 0; i < stage.blocks; ++i) {
        expanded.push_back((widths.empty() ? kStemWidth : widths.back()) * stage.expansion);
        widths.push_back(stage.width);
        strides.push_back(i == 0 ? stage.stride : 1);
      }
    }
    return {{"stem_width", kStemWidth},
            {"widths", std::move(widths)},
            {"expanded_widths", std::move(expanded)},
            {"strides", std::move(strides)},
            {"last_width", int64_t{1280}}};
  }

  const std::vector<ParameterSpec> parameters_ = WithImageClassifierParameters(
      1,
      {{.name = "stem_width", .meaning = "channels of the first convolution"},
       {.name = "widths",
        .type = ParameterSpec::Type::kInts,
        .meaning = "channels that each block gives"},
       {.name = "expanded_widths",
        .type = ParameterSpec::Type::kInts,
        .meaning = "channels within each block"},
       {.name = "strides", .type = ParameterSpec::Type::kInts, .meaning = "stride of each block"},
       {.name = "last_width", .meaning = "channels of the last convolution"}});
  const std::vector<Variant> variants_ = {{"mobilenet_v2", Fixed()}};
};

}  // namespace

const Family& MobileNetV2() {
  static const auto* const family = new MobileNetV2Family;
  return *family;
}

}  // namespace sconce::models
