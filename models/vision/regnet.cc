// RegNet X and Y as torchvision has them, with its parameter names.
#include <ATen/ops/flatten.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/families.h"
#include "models/vision/blocks.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

struct RegNetStage {
  int64_t in, width, inner_width, group_width;
  double se_ratio;  // 0: channels are not weighed
};

// "a", "b" and "c": a 1x1, a grouped 3x3 and a 1x1 convolution; "se" weighs channels before "c".
Layers RegNetTransform(const RegNetStage& stage, int64_t stride) {
  const int64_t inner = stage.inner_width;
  Layers layers;
  layers->push_back("a",
                    ConvNormActivation(Convolution(stage.in, inner, 1), ActivationKind::kRelu));
  layers->push_back(
      "b", ConvNormActivation(Convolution(inner, inner, 3, stride, inner / stage.group_width),
                              ActivationKind::kRelu));
  if (stage.se_ratio > 0) {
    // Of the block's input, rounded as Python does, halves to even.
    const double squeezed = std::nearbyint(stage.se_ratio * static_cast<double>(stage.in));
    layers->push_back(
        "se", std::make_shared<SqueezeExcitation>(
                  inner, static_cast<int64_t>(squeezed),
                  Activation(ActivationKind::kRelu, /*inplace=*/false), ActivationKind::kSigmoid));
  }
  layers->push_back("c", ConvNormActivation(Convolution(inner, stage.width, 1), std::nullopt));
  return layers;
}

class RegNetBlock final : public nn::Module {
 public:
  RegNetBlock(const RegNetStage& stage, int64_t stride) {
    if (stage.in != stage.width || stride != 1) {
      proj_ = register_module(
          "proj", ConvNormActivation(Convolution(stage.in, stage.width, 1, stride), std::nullopt));
    }
    f_ = register_module("f", RegNetTransform(stage, stride));
    activation_ = register_module("activation", Activation(ActivationKind::kRelu));
  }

  at::Tensor forward(const at::Tensor& input) {
    if (proj_.is_empty()) return activation_->forward(input + f_->forward(input));
    const at::Tensor projected = proj_->forward(input);
    return activation_->forward(projected + f_->forward(input));
  }

 private:
  Layers proj_{nullptr}, f_{nullptr};
  Activation activation_{nullptr};
};

class RegNetModule final : public nn::Module {
 public:
  explicit RegNetModule(const Parameters& parameters) {
    const auto& depths = Get<std::vector<int64_t>>(parameters, "depths");
    const auto& widths = Get<std::vector<int64_t>>(parameters, "widths");
    const auto& inner_widths = Get<std::vector<int64_t>>(parameters, "inner_widths");
    const auto& group_widths = Get<std::vector<int64_t>>(parameters, "group_widths");
    int64_t channels = Get<int64_t>(parameters, "stem_width");
    stem_ = register_module(
        "stem", ConvNormActivation(Convolution(3, channels, 3, 2), ActivationKind::kRelu));
    trunk_output_ = register_module("trunk_output", Layers());
    for (size_t i = 0; i < widths.size(); ++i) {
      Layers blocks;
      for (int64_t block = 0; block < depths[i]; ++block) {
        blocks->push_back(absl::StrCat("block", i + 1, "-", block),
                          std::make_shared<RegNetBlock>(
                              RegNetStage{channels, widths[i], inner_widths[i], group_widths[i],
                                          Get<double>(parameters, "se_ratio")},
                              block == 0 ? 2 : 1));
        channels = widths[i];
      }
      trunk_output_->push_back(absl::StrCat("block", i + 1), blocks);
    }
    avgpool_ = register_module("avgpool", GlobalPool());
    fc_ = register_module("fc", nn::Linear(channels, Get<int64_t>(parameters, "num_classes")));
  }

  at::Tensor forward(const at::Tensor& input) {
    const at::Tensor x = avgpool_->forward(trunk_output_->forward(stem_->forward(input)));
    return fc_->forward(at::flatten(x, 1));
  }

 private:
  Layers stem_{nullptr}, trunk_output_{nullptr};
  nn::AdaptiveAvgPool2d avgpool_{nullptr};
  nn::Linear fc_{nullptr};
};

constexpr double kRegNetX = 0, kRegNetY = 0.25;  // the ratio of squeeze and excitation

Parameters RegNetVariant(std::vector<int64_t> depths, const std::vector<int64_t>& widths,
                         int64_t group_width, double se_ratio) {
  std::vector<int64_t> group_widths;
  for (const int64_t width : widths) group_widths.push_back(std::min(group_width, width));
  return {{"depths", std::move(depths)}, {"widths", widths},
          {"inner_widths", widths},      {"group_widths", std::move(group_widths)},
          {"se_ratio", se_ratio},        {"stem_width", int64_t{32}}};
}

// The ratios that round to the numbers of channels seen.
class RegNetRatio {
 public:
  void Add(int64_t squeezed, int64_t in) {
    const auto seen = static_cast<double>(squeezed), of = static_cast<double>(in);
    low_ = std::max(low_, (seen - 0.5) / of);
    high_ = std::min(high_, (seen + 0.5) / of);
  }

  // The one of the fewest decimals.
  double Roundest() const {
    const double middle = (low_ + high_) / 2;
    for (double scale = 1; scale < 1e6; scale *= 10) {
      const double rounded = std::nearbyint(middle * scale) / scale;
      if (rounded > low_ && rounded < high_) return rounded;
    }
    return middle;
  }

 private:
  double low_ = 0;
  double high_ = std::numeric_limits<int32_t>::max();
};

class RegNetFamily final : public Family {
 public:
  absl::string_view name() const override { return "regnet"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const std::vector<Variant>& variants() const override { return variants_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& /*configured*/) const override {
    if (Find(state, "trunk_output.block1.block1-0.f.a.0.weight") == nullptr) {
      return absl::NotFoundError("no convolution at trunk_output.block1.block1-0.f.a.0");
    }
    const LayerShapes layers(state);
    const auto stem = layers.Convolution("stem.0");
    if (!stem) return absl::NotFoundError("no convolution at stem.0");
    std::vector<int64_t> depths, widths, inner_widths, group_widths;
    RegNetRatio ratio;
    bool weighed = false;
    int64_t channels = stem->out;
    for (;;) {
      const size_t number = depths.size() + 1;
      const std::string prefix = absl::StrCat("trunk_output.block", number, ".block", number, "-");
      int64_t depth = 0;
      for (;; ++depth) {
        const std::string block = absl::StrCat(prefix, depth, ".f.");
        const auto filter = layers.Convolution(block + "b.0");
        const auto last = layers.Convolution(block + "c.0");
        if (!filter || !last) break;
        if (const auto squeeze = layers.Convolution(block + "se.fc1")) {
          ratio.Add(squeeze->out, channels);
          weighed = true;
        }
        channels = last->out;
        if (depth > 0) continue;
        widths.push_back(last->out);
        inner_widths.push_back(filter->out);
        group_widths.push_back(filter->in);
      }
      if (depth == 0) break;
      depths.push_back(depth);
    }
    Inference inference{NumClasses(state, "fc.weight")};
    inference.parameters.merge(Parameters{{"depths", std::move(depths)},
                                          {"widths", std::move(widths)},
                                          {"inner_widths", std::move(inner_widths)},
                                          {"group_widths", std::move(group_widths)},
                                          {"se_ratio", weighed ? ratio.Roundest() : kRegNetX},
                                          {"stem_width", stem->out}});
    return inference;
  }

  absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& parameters) const override {
    const absl::Status lengths =
        CheckLists(name(), parameters, {"widths", "depths", "inner_widths", "group_widths"});
    if (!lengths.ok()) return lengths;
    const auto& inner_widths = Get<std::vector<int64_t>>(parameters, "inner_widths");
    const auto& group_widths = Get<std::vector<int64_t>>(parameters, "group_widths");
    for (size_t i = 0; i < inner_widths.size(); ++i) {
      if (inner_widths[i] % group_widths[i] == 0) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(name(), ": inner_widths: expected a multiple of the group's width, ",
                       group_widths[i], ", got ", inner_widths[i]));
    }
    return BuildModuleNet<RegNetModule>(name(), "RegNet", ImageClassifierSignature(parameters),
                                        parameters);
  }

 private:
  const std::vector<ParameterSpec> parameters_ = WithImageClassifierParameters(
      1, {{.name = "depths", .type = ParameterSpec::Type::kInts, .meaning = "blocks of each stage"},
          {.name = "widths",
           .type = ParameterSpec::Type::kInts,
           .meaning = "channels that each stage gives"},
          {.name = "inner_widths",
           .type = ParameterSpec::Type::kInts,
           .meaning = "channels within the blocks of each stage"},
          {.name = "group_widths",
           .type = ParameterSpec::Type::kInts,
           .meaning = "channels of a group of the 3x3 convolutions of each stage"},
          {.name = "se_ratio",
           .type = ParameterSpec::Type::kDouble,
           .default_value = kRegNetX,
           .meaning = "channels of squeeze and excitation for each of a block's input, 0: none"},
          {.name = "stem_width",
           .default_value = int64_t{32},
           .meaning = "channels of the first convolution"}});
  const std::vector<Variant> variants_ = {
      {"regnet_y_400mf", RegNetVariant({1, 3, 6, 6}, {48, 104, 208, 440}, 8, kRegNetY)},
      {"regnet_y_800mf", RegNetVariant({1, 3, 8, 2}, {64, 144, 320, 784}, 16, kRegNetY)},
      {"regnet_y_1_6gf", RegNetVariant({2, 6, 17, 2}, {48, 120, 336, 888}, 24, kRegNetY)},
      {"regnet_y_3_2gf", RegNetVariant({2, 5, 13, 1}, {72, 216, 576, 1512}, 24, kRegNetY)},
      {"regnet_y_8gf", RegNetVariant({2, 4, 10, 1}, {224, 448, 896, 2016}, 56, kRegNetY)},
      {"regnet_y_16gf", RegNetVariant({2, 4, 11, 1}, {224, 448, 1232, 3024}, 112, kRegNetY)},
      {"regnet_y_32gf", RegNetVariant({2, 5, 12, 1}, {232, 696, 1392, 3712}, 232, kRegNetY)},
      {"regnet_y_128gf", RegNetVariant({2, 7, 17, 1}, {528, 1056, 2904, 7392}, 264, kRegNetY)},
      {"regnet_x_400mf", RegNetVariant({1, 2, 7, 12}, {32, 64, 160, 400}, 16, kRegNetX)},
      {"regnet_x_800mf", RegNetVariant({1, 3, 7, 5}, {64, 128, 288, 672}, 16, kRegNetX)},
      {"regnet_x_1_6gf", RegNetVariant({2, 4, 10, 2}, {72, 168, 408, 912}, 24, kRegNetX)},
      {"regnet_x_3_2gf", RegNetVariant({2, 6, 15, 2}, {96, 192, 432, 1008}, 48, kRegNetX)},
      {"regnet_x_8gf", RegNetVariant({2, 5, 15, 1}, {80, 240, 720, 1920}, 120, kRegNetX)},
      {"regnet_x_16gf", RegNetVariant({2, 6, 13, 1}, {256, 512, 896, 2048}, 128, kRegNetX)},
      {"regnet_x_32gf", RegNetVariant({2, 7, 13, 1}, {336, 672, 1344, 2520}, 168, kRegNetX)},
  };
};

}  // namespace

const Family& RegNet() {
  static const auto* const family = new RegNetFamily;
  return *family;
}

}  // namespace sconce::models
