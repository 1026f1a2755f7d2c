// EfficientNet B0 to B7 and V2 as torchvision has them, with its parameter names. V2 differs in
// that its first stages have fused blocks.

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/families.h"
#include "models/vision/blocks.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

constexpr int64_t kEfficientNetDivisor = 8;

struct EfficientNetStage {
  bool fused;
  int64_t expansion, kernel, stride, width, depth;
};

// Widened, filtered channel by channel, weighed and narrowed; the fused kind widens and filters in
// one convolution and weighs nothing.
class EfficientNetBlock final : public ResidualLayers {
 public:
  EfficientNetBlock(const EfficientNetStage& stage, int64_t in, int64_t stride, double eps)
      : ResidualLayers(stride == 1 && in == stage.width) {
    const int64_t expanded =
        MakeDivisible(static_cast<double>(in * stage.expansion), kEfficientNetDivisor);
    const auto add = [&](int64_t from, int64_t to, int64_t kernel, int64_t stride_of,
                         int64_t groups, bool activated) {
      block_->push_back(
          ConvNormActivation(Convolution(from, to, kernel, stride_of, groups),
                             activated ? std::optional(ActivationKind::kSilu) : std::nullopt, eps));
    };
    if (stage.fused) {
      if (expanded == in) {
        add(in, stage.width, stage.kernel, stride, 1, true);
      } else {
        add(in, expanded, stage.kernel, stride, 1, true);
        add(expanded, stage.width, 1, 1, 1, false);
      }
    } else {
      if (expanded != in) add(in, expanded, 1, 1, 1, true);
      add(expanded, expanded, stage.kernel, stride, expanded, true);
      block_->push_back(std::make_shared<SqueezeExcitation>(expanded, std::max<int64_t>(1, in / 4),
                                                            Activation(ActivationKind::kSilu),
                                                            ActivationKind::kSigmoid));
      add(expanded, stage.width, 1, 1, 1, false);
    }
    register_module("stochastic_depth", nn::Identity());
  }
};

std::vector<EfficientNetStage> EfficientNetStages(const Parameters& parameters) {
  const auto list = [&](const std::string& name) -> const std::vector<int64_t>& {
    return Get<std::vector<int64_t>>(parameters, name);
  };
  std::vector<EfficientNetStage> stages;
  for (size_t i = 0; i < list("widths").size(); ++i) {
    stages.push_back({list("fused")[i] != 0, list("expansions")[i], list("kernels")[i],
                      list("strides")[i], list("widths")[i], list("depths")[i]});
  }
  return stages;
}

Parameters EfficientNetParameters(const std::vector<EfficientNetStage>& stages, int64_t stem_width,
                                  int64_t last_width) {
  std::vector<int64_t> fused, expansions, kernels, strides, widths, depths;
  for (const EfficientNetStage& stage : stages) {
    fused.push_back(stage.fused ? 1 : 0);
    expansions.push_back(stage.expansion);
    kernels.push_back(stage.kernel);
    strides.push_back(stage.stride);
    widths.push_back(stage.width);
    depths.push_back(stage.depth);
  }
  return {{"fused", std::move(fused)},     {"expansions", std::move(expansions)},
          {"kernels", std::move(kernels)}, {"strides", std::move(strides)},
          {"widths", std::move(widths)},   {"depths", std::move(depths)},
          {"stem_width", stem_width},      {"last_width", last_width}};
}

class EfficientNetModule final : public PooledClassifier {
 public:
  explicit EfficientNetModule(const Parameters& parameters) {
    const double eps = Get<double>(parameters, "eps");
    const int64_t last_width = Get<int64_t>(parameters, "last_width");
    int64_t channels = Get<int64_t>(parameters, "stem_width");
    features_ = register_module("features", Layers());
    features_->push_back(
        ConvNormActivation(Convolution(3, channels, 3, 2), ActivationKind::kSilu, eps));
    for (const EfficientNetStage& stage : EfficientNetStages(parameters)) {
      Layers blocks;
      for (int64_t i = 0; i < stage.depth; ++i) {
        blocks->push_back(
            std::make_shared<EfficientNetBlock>(stage, channels, i == 0 ? stage.stride : 1, eps));
        channels = stage.width;
      }
      features_->push_back(blocks);
    }
    features_->push_back(
        ConvNormActivation(Convolution(channels, last_width, 1), ActivationKind::kSilu, eps));
    avgpool_ = register_module("avgpool", GlobalPool());
    classifier_ = register_module(
        "classifier",
        Layers(nn::Dropout(), nn::Linear(last_width, Get<int64_t>(parameters, "num_classes"))));
  }
};

// B0 with its widths and depths multiplied.
Parameters EfficientNetV1Variant(double width, double depth, double eps) {
  std::vector<EfficientNetStage> stages = {{false, 1, 3, 1, 16, 1},  {false, 6, 3, 2, 24, 2},
                                           {false, 6, 5, 2, 40, 2},  {false, 6, 3, 2, 80, 3},
                                           {false, 6, 5, 1, 112, 3}, {false, 6, 5, 2, 192, 4},
                                           {false, 6, 3, 1, 320, 1}};
  const auto widened = [&](int64_t channels) {
    return MakeDivisible(static_cast<double>(channels) * width, kEfficientNetDivisor);
  };
  for (EfficientNetStage& stage : stages) {
    stage.width = widened(stage.width);
    stage.depth = static_cast<int64_t>(std::ceil(static_cast<double>(stage.depth) * depth));
  }
  Parameters fixed = EfficientNetParameters(stages, widened(32), 4 * stages.back().width);
  fixed["eps"] = eps;
  return fixed;
}

Parameters EfficientNetV2Variant(const std::vector<EfficientNetStage>& stages) {
  Parameters fixed = EfficientNetParameters(stages, stages[0].width, 1280);
  fixed["eps"] = 1e-3;
  return fixed;
}

// A stage without its stride, read from its first block; none where there is no such block.
std::optional<EfficientNetStage> ReadEfficientNetStage(const LayerShapes& layers,
                                                       const std::string& stage, int64_t in) {
  const std::string block = stage + "0.block.";
  const auto first = layers.Convolution(block + "0.0");
  if (!first) return std::nullopt;
  const bool weighed_second = layers.Has(block + "1.fc1.weight");
  const bool weighed_third = layers.Has(block + "2.fc1.weight");
  const bool fused = !weighed_second && !weighed_third;
  const auto second = layers.Convolution(block + "1.0");
  const auto last = fused            ? (second ? second : first)
                    : weighed_second ? layers.Convolution(block + "2.0")
                                     : layers.Convolution(block + "3.0");
  const auto filter = weighed_third ? second : first;
  if (!last || !filter) return std::nullopt;
  const int64_t expanded = fused && !second ? in : first->out;
  return EfficientNetStage{.fused = fused,
                           .expansion = std::max<int64_t>(1, (expanded + in / 2) / in),
                           .kernel = filter->height,
                           .stride = 1,
                           .width = last->out,
                           .depth = 0};
}

class EfficientNetFamily final : public Family {
 public:
  absl::string_view name() const override { return "efficientnet"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const std::vector<Variant>& variants() const override { return variants_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& configured) const override {
    if (Find(state, "features.1.0.block.0.0.weight") == nullptr) {
      return absl::NotFoundError("no convolution at features.1.0.block.0.0");
    }
    const LayerShapes layers(state);
    const auto stem = layers.Convolution("features.0.0");
    if (!stem) return absl::NotFoundError("no convolution at features.0.0");
    // All variants have these, as far as their stages go.
    constexpr int64_t kStrides[] = {1, 2, 2, 2, 1, 2, 1};
    std::vector<EfficientNetStage> stages;
    int64_t channels = stem->out;
    for (;;) {
      const std::string prefix = absl::StrCat("features.", stages.size() + 1, ".");
      std::optional<EfficientNetStage> stage = ReadEfficientNetStage(layers, prefix, channels);
      if (!stage) break;
      if (stages.size() < std::size(kStrides)) stage->stride = kStrides[stages.size()];
      while (layers.Has(absl::StrCat(prefix, stage->depth, ".block.0.0.weight"))) ++stage->depth;
      channels = stage->width;
      stages.push_back(*stage);
    }
    const auto last = layers.Convolution(absl::StrCat("features.", stages.size() + 1, ".0"));
    if (!last) return absl::NotFoundError("no last convolution in features");
    Inference inference{NumClasses(state, "classifier.1.weight")};
    inference.parameters.merge(EfficientNetParameters(stages, stem->out, last->out));
    if (!configured.contains("strides")) {
      inference.assumed =
          Assumption(name(), "the strides are", "strides", inference.parameters.at("strides"));
    }
    if (!configured.contains("eps")) {
      absl::StrAppend(&inference.assumed, inference.assumed.empty() ? "" : "; ",
                      Assumption(name(), "the eps of the batch norms is", "eps", kDefaultEps));
    }
    return inference;
  }

  absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& parameters) const override {
    const absl::Status lengths = CheckLists(
        name(), parameters, {"widths", "depths", "fused", "expansions", "kernels", "strides"});
    if (!lengths.ok()) return lengths;
    return BuildModuleNet<EfficientNetModule>(name(), "EfficientNet",
                                              ImageClassifierSignature(parameters), parameters);
  }

 private:
  static constexpr double kDefaultEps = 1e-5;

  const std::vector<ParameterSpec> parameters_ = WithImageClassifierParameters(
      1, {{.name = "stem_width", .meaning = "channels of the first convolution"},
          {.name = "widths",
           .type = ParameterSpec::Type::kInts,
           .meaning = "channels that each stage gives"},
          {.name = "depths", .type = ParameterSpec::Type::kInts, .meaning = "blocks of each stage"},
          {.name = "fused",
           .type = ParameterSpec::Type::kInts,
           .meaning = "1 for each stage of fused blocks, else 0",
           .minimum = 0},
          {.name = "expansions",
           .type = ParameterSpec::Type::kInts,
           .meaning = "how many times wider the blocks of each stage are within"},
          {.name = "kernels",
           .type = ParameterSpec::Type::kInts,
           .meaning = "kernel size of each stage"},
          {.name = "strides",
           .type = ParameterSpec::Type::kInts,
           .meaning = "stride of the first block of each stage"},
          {.name = "last_width", .meaning = "channels of the last convolution"},
          {.name = "eps",
           .type = ParameterSpec::Type::kDouble,
           .default_value = kDefaultEps,
           .meaning = "what the batch norms add to the variance"}});
  const std::vector<Variant> variants_ = {
      {"efficientnet_b0", EfficientNetV1Variant(1.0, 1.0, 1e-5)},
      {"efficientnet_b1", EfficientNetV1Variant(1.0, 1.1, 1e-5)},
      {"efficientnet_b2", EfficientNetV1Variant(1.1, 1.2, 1e-5)},
      {"efficientnet_b3", EfficientNetV1Variant(1.2, 1.4, 1e-5)},
      {"efficientnet_b4", EfficientNetV1Variant(1.4, 1.8, 1e-5)},
      {"efficientnet_b5", EfficientNetV1Variant(1.6, 2.2, 1e-3)},
      {"efficientnet_b6", EfficientNetV1Variant(1.8, 2.6, 1e-3)},
      {"efficientnet_b7", EfficientNetV1Variant(2.0, 3.1, 1e-3)},
      {"efficientnet_v2_s", EfficientNetV2Variant({{true, 1, 3, 1, 24, 2},
                                                   {true, 4, 3, 2, 48, 4},
                                                   {true, 4, 3, 2, 64, 4},
                                                   {false, 4, 3, 2, 128, 6},
                                                   {false, 6, 3, 1, 160, 9},
                                                   {false, 6, 3, 2, 256, 15}})},
      {"efficientnet_v2_m", EfficientNetV2Variant({{true, 1, 3, 1, 24, 3},
                                                   {true, 4, 3, 2, 48, 5},
                                                   {true, 4, 3, 2, 80, 5},
                                                   {false, 4, 3, 2, 160, 7},
                                                   {false, 6, 3, 1, 176, 14},
                                                   {false, 6, 3, 2, 304, 18},
                                                   {false, 6, 3, 1, 512, 5}})},
      {"efficientnet_v2_l", EfficientNetV2Variant({{true, 1, 3, 1, 32, 4},
                                                   {true, 4, 3, 2, 64, 7},
                                                   {true, 4, 3, 2, 96, 7},
                                                   {false, 4, 3, 2, 192, 10},
                                                   {false, 6, 3, 1, 224, 19},
                                                   {false, 6, 3, 2, 384, 25},
                                                   {false, 6, 3, 1, 640, 7}})},
  };
};

}  // namespace

const Family& EfficientNet() {
  static const auto* const family = new EfficientNetFamily;
  return *family;
}

}  // namespace sconce::models
