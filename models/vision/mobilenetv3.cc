// MobileNet v3 as torchvision has it, with its parameter names.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/families.h"
#include "models/vision/blocks.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

constexpr double kMobileNetV3Eps = 1e-3;

struct MobileNetV3Shape {
  int64_t kernel, expanded, width;
  bool weighed;
  int64_t stride;
};

class MobileNetV3Block final : public ResidualLayers {
 public:
  MobileNetV3Block(const MobileNetV3Shape& shape, int64_t in, ActivationKind activation)
      : ResidualLayers(shape.stride == 1 && in == shape.width) {
    const int64_t expanded = shape.expanded;
    if (expanded != in) {
      block_->push_back(
          ConvNormActivation(Convolution(in, expanded, 1), activation, kMobileNetV3Eps));
    }
    block_->push_back(
        ConvNormActivation(Convolution(expanded, expanded, shape.kernel, shape.stride, expanded),
                           activation, kMobileNetV3Eps));
    if (shape.weighed) {
      block_->push_back(std::make_shared<SqueezeExcitation>(
          expanded, MakeDivisible(static_cast<double>(expanded / 4), 8),
          Activation(ActivationKind::kRelu, /*inplace=*/false), ActivationKind::kHardsigmoid));
    }
    block_->push_back(
        ConvNormActivation(Convolution(expanded, shape.width, 1), std::nullopt, kMobileNetV3Eps));
  }
};

std::vector<MobileNetV3Shape> MobileNetV3Shapes(const Parameters& parameters) {
  const auto list = [&](const std::string& name) -> const std::vector<int64_t>& {
    return Get<std::vector<int64_t>>(parameters, name);
  };
  std::vector<MobileNetV3Shape> shapes;
  for (size_t i = 0; i < list("widths").size(); ++i) {
    shapes.push_back({list("kernels")[i], list("expanded_widths")[i], list("widths")[i],
                      list("squeeze_excitation")[i] != 0, list("strides")[i]});
  }
  return shapes;
}

Parameters MobileNetV3Parameters(const std::vector<MobileNetV3Shape>& shapes, int64_t stem_width,
                                 int64_t last_width, int64_t hidden_width) {
  std::vector<int64_t> kernels, expanded, widths, weighed, strides;
  for (const MobileNetV3Shape& shape : shapes) {
    kernels.push_back(shape.kernel);
    expanded.push_back(shape.expanded);
    widths.push_back(shape.width);
    weighed.push_back(shape.weighed ? 1 : 0);
    strides.push_back(shape.stride);
  }
  return {{"kernels", std::move(kernels)}, {"expanded_widths", std::move(expanded)},
          {"widths", std::move(widths)},   {"squeeze_excitation", std::move(weighed)},
          {"strides", std::move(strides)}, {"stem_width", stem_width},
          {"last_width", last_width},      {"hidden_width", hidden_width}};
}

class MobileNetV3Module final : public PooledClassifier {
 public:
  explicit MobileNetV3Module(const Parameters& parameters) {
    const std::vector<MobileNetV3Shape> shapes = MobileNetV3Shapes(parameters);
    const auto plain = static_cast<size_t>(Get<int64_t>(parameters, "relu_blocks"));
    const int64_t last_width = Get<int64_t>(parameters, "last_width");
    const int64_t hidden_width = Get<int64_t>(parameters, "hidden_width");
    int64_t channels = Get<int64_t>(parameters, "stem_width");
    features_ = register_module("features", Layers());
    features_->push_back(ConvNormActivation(Convolution(3, channels, 3, 2),
                                            ActivationKind::kHardswish, kMobileNetV3Eps));
    for (size_t i = 0; i < shapes.size(); ++i) {
      features_->push_back(std::make_shared<MobileNetV3Block>(
          shapes[i], channels, i < plain ? ActivationKind::kRelu : ActivationKind::kHardswish));
      channels = shapes[i].width;
    }
    features_->push_back(ConvNormActivation(Convolution(channels, last_width, 1),
                                            ActivationKind::kHardswish, kMobileNetV3Eps));
    avgpool_ = register_module("avgpool", GlobalPool());
    classifier_ = register_module(
        "classifier",
        Layers(nn::Linear(last_width, hidden_width), Activation(ActivationKind::kHardswish),
               nn::Dropout(), nn::Linear(hidden_width, Get<int64_t>(parameters, "num_classes"))));
  }
};

// `relu_blocks`: as many blocks have ReLU, the rest Hardswish.
Parameters MobileNetV3Variant(const std::vector<MobileNetV3Shape>& shapes, int64_t relu_blocks,
                              int64_t hidden_width) {
  Parameters fixed = MobileNetV3Parameters(shapes, 16, 6 * shapes.back().width, hidden_width);
  fixed["relu_blocks"] = relu_blocks;
  return fixed;
}

// A block without its stride; none where there is no such block.
std::optional<MobileNetV3Shape> ReadMobileNetV3Block(const LayerShapes& layers,
                                                     const std::string& block) {
  const auto first = layers.Convolution(block + "0.0");
  if (!first) return std::nullopt;
  // A convolution channel by channel sees one channel: nothing is widened before it.
  int64_t position = first->in == 1 ? 0 : 1;
  const auto filter = layers.Convolution(absl::StrCat(block, position, ".0"));
  const bool weighed = layers.Has(absl::StrCat(block, ++position, ".fc1.weight"));
  const auto last =
      layers.Convolution(absl::StrCat(block, weighed ? position + 1 : position, ".0"));
  if (!filter || !last) return std::nullopt;
  return MobileNetV3Shape{filter->height, first->out, last->out, weighed, 1};
}

class MobileNetV3Family final : public Family {
 public:
  absl::string_view name() const override { return "mobilenetv3"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const std::vector<Variant>& variants() const override { return variants_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& configured) const override {
    if (Find(state, "features.1.block.0.0.weight") == nullptr) {
      return absl::NotFoundError("no convolution at features.1.block.0.0");
    }
    const LayerShapes layers(state);
    std::vector<MobileNetV3Shape> shapes;
    std::vector<int64_t> widths;
    while (const auto shape = ReadMobileNetV3Block(
               layers, absl::StrCat("features.", shapes.size() + 1, ".block."))) {
      shapes.push_back(*shape);
      widths.push_back(shape->width);
    }
    const auto stem = layers.Convolution("features.0.0");
    const auto last = layers.Convolution(absl::StrCat("features.", shapes.size() + 1, ".0"));
    const NamedShape* hidden = Find(state, "classifier.0.weight");
    if (!stem || !last || hidden == nullptr || hidden->shape.size() != 2) {
      return absl::NotFoundError("no first or last convolution in features, or no classifier.0");
    }

    // Networks of other widths have as many blocks as the variant they are made from.
    const auto usual = std::find_if(variants_.begin(), variants_.end(), [&](const Variant& known) {
      return Get<std::vector<int64_t>>(known.fixed, "strides").size() == shapes.size();
    });
    const std::vector<int64_t> strides = usual != variants_.end()
                                             ? Get<std::vector<int64_t>>(usual->fixed, "strides")
                                             : StridesByWidth(widths);
    const int64_t relu_blocks = usual != variants_.end() ? Get<int64_t>(usual->fixed, "relu_blocks")
                                                         : static_cast<int64_t>(shapes.size() / 2);
    for (size_t i = 0; i < shapes.size(); ++i) shapes[i].stride = strides[i];
    Inference inference{NumClasses(state, "classifier.3.weight")};
    inference.parameters.merge(
        MobileNetV3Parameters(shapes, stem->out, last->out, hidden->shape[0]));
    inference.parameters["relu_blocks"] = relu_blocks;
    if (usual == variants_.end()) {
      std::vector<std::string> assumptions;
      if (!configured.contains("strides")) {
        assumptions.push_back(Assumption(name(), "the strides are", "strides", strides));
      }
      if (!configured.contains("relu_blocks")) {
        assumptions.push_back(
            Assumption(name(), "the number of blocks with ReLU is", "relu_blocks", relu_blocks));
      }
      inference.assumed = absl::StrJoin(assumptions, "; ");
    }
    return inference;
  }

  absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& parameters) const override {
    const absl::Status lengths =
        CheckLists(name(), parameters,
                   {"widths", "expanded_widths", "kernels", "squeeze_excitation", "strides"});
    if (!lengths.ok()) return lengths;
    return BuildModuleNet<MobileNetV3Module>(name(), "MobileNetV3",
                                             ImageClassifierSignature(parameters), parameters);
  }

 private:
  const std::vector<ParameterSpec> parameters_ = WithImageClassifierParameters(
      1,
      {{.name = "stem_width", .meaning = "channels of the first convolution"},
       {.name = "widths",
        .type = ParameterSpec::Type::kInts,
        .meaning = "channels that each block gives"},
       {.name = "expanded_widths",
        .type = ParameterSpec::Type::kInts,
        .meaning = "channels within each block"},
       {.name = "kernels",
        .type = ParameterSpec::Type::kInts,
        .meaning = "kernel size of each block"},
       {.name = "squeeze_excitation",
        .type = ParameterSpec::Type::kInts,
        .meaning = "1 for each block that weighs its channels, else 0",
        .minimum = 0},
       {.name = "strides", .type = ParameterSpec::Type::kInts, .meaning = "stride of each block"},
       {.name = "relu_blocks",
        .meaning = "how many blocks have ReLU before Hardswish begins",
        .minimum = 0},
       {.name = "last_width", .meaning = "channels of the last convolution"},
       {.name = "hidden_width", .meaning = "features between the layers of the classifier"}});
  const std::vector<Variant> variants_ = {
      {"mobilenet_v3_large", MobileNetV3Variant({{3, 16, 16, false, 1},
                                                 {3, 64, 24, false, 2},
                                                 {3, 72, 24, false, 1},
                                                 {5, 72, 40, true, 2},
                                                 {5, 120, 40, true, 1},
                                                 {5, 120, 40, true, 1},
                                                 {3, 240, 80, false, 2},
                                                 {3, 200, 80, false, 1},
                                                 {3, 184, 80, false, 1},
                                                 {3, 184, 80, false, 1},
                                                 {3, 480, 112, true, 1},
                                                 {3, 672, 112, true, 1},
                                                 {5, 672, 160, true, 2},
                                                 {5, 960, 160, true, 1},
                                                 {5, 960, 160, true, 1}},
                                                6, 1280)},
      {"mobilenet_v3_small", MobileNetV3Variant({{3, 16, 16, true, 2},
                                                 {3, 72, 24, false, 2},
                                                 {3, 88, 24, false, 1},
                                                 {5, 96, 40, true, 2},
                                                 {5, 240, 40, true, 1},
                                                 {5, 240, 40, true, 1},
                                                 {5, 120, 48, true, 1},
                                                 {5, 144, 48, true, 1},
                                                 {5, 288, 96, true, 2},
                                                 {5, 576, 96, true, 1},
                                                 {5, 576, 96, true, 1}},
                                                3, 1024)},
  };
};

}  // namespace

const Family& MobileNetV3() {
  static const auto* const family = new MobileNetV3Family;
  return *family;
}

}  // namespace sconce::models
