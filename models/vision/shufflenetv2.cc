// ShuffleNet v2 as torchvision has it, with its parameter names.
#include <ATen/ops/cat.h>
#include <ATen/ops/chunk.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/transpose.h>

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/families.h"
#include "models/vision/blocks.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

constexpr int64_t kShuffleNetStages = 3;

// The channels of two groups, taken in turn.
at::Tensor ShuffleNetShuffle(const at::Tensor& x) {
  const int64_t batch = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  const at::Tensor groups = x.view({batch, 2, channels / 2, height, width});
  return at::transpose(groups, 1, 2).contiguous().view({batch, channels, height, width});
}

// With a stride of 1 half the channels pass unchanged; otherwise both halves are made of all.
class ShuffleNetBlock final : public nn::Module {
 public:
  ShuffleNetBlock(int64_t in, int64_t out, int64_t stride) : split_(stride == 1) {
    const int64_t half = out / 2;
    const int64_t passed_on = split_ ? half : in;
    branch1_ = register_module("branch1", Layers());
    if (!split_) {
      AppendConvNorm(branch1_, Convolution(in, in, 3, stride, in));
      AppendConvNorm(branch1_, Convolution(in, half, 1), ActivationKind::kRelu);
    }
    branch2_ = register_module("branch2", Layers());
    AppendConvNorm(branch2_, Convolution(passed_on, half, 1), ActivationKind::kRelu);
    AppendConvNorm(branch2_, Convolution(half, half, 3, stride, half));
    AppendConvNorm(branch2_, Convolution(half, half, 1), ActivationKind::kRelu);
  }

  at::Tensor forward(const at::Tensor& input) {
    if (!split_) {
      return ShuffleNetShuffle(at::cat({branch1_->forward(input), branch2_->forward(input)}, 1));
    }
    const std::vector<at::Tensor> halves = at::chunk(input, 2, 1);
    return ShuffleNetShuffle(at::cat({halves[0], branch2_->forward(halves[1])}, 1));
  }

 private:
  const bool split_;
  Layers branch1_{nullptr}, branch2_{nullptr};
};

class ShuffleNetV2Module final : public nn::Module {
 public:
  explicit ShuffleNetV2Module(const Parameters& parameters) {
    const auto& depths = Get<std::vector<int64_t>>(parameters, "depths");
    const auto& widths = Get<std::vector<int64_t>>(parameters, "widths");
    const int64_t last_width = Get<int64_t>(parameters, "last_width");
    int64_t channels = Get<int64_t>(parameters, "stem_width");
    conv1_ = register_module(
        "conv1", ConvNormActivation(Convolution(3, channels, 3, 2), ActivationKind::kRelu));
    maxpool_ = register_module("maxpool", MaxPool(3, 2, 1));
    for (size_t i = 0; i < stages_.size(); ++i) {
      Layers blocks;
      for (int64_t block = 0; block < depths[i]; ++block) {
        blocks->push_back(
            std::make_shared<ShuffleNetBlock>(channels, widths[i], block == 0 ? 2 : 1));
        channels = widths[i];
      }
      stages_[i] = register_module(absl::StrCat("stage", i + 2), blocks);
    }
    conv5_ = register_module(
        "conv5", ConvNormActivation(Convolution(channels, last_width, 1), ActivationKind::kRelu));
    fc_ = register_module("fc", nn::Linear(last_width, Get<int64_t>(parameters, "num_classes")));
  }

  at::Tensor forward(const at::Tensor& input) {
    at::Tensor x = maxpool_->forward(conv1_->forward(input));
    for (Layers& stage : stages_) x = stage->forward(std::move(x));
    x = conv5_->forward(std::move(x));
    return fc_->forward(at::mean(x, {2, 3}));
  }

 private:
  Layers conv1_{nullptr}, conv5_{nullptr};
  nn::MaxPool2d maxpool_{nullptr};
  std::array<Layers, kShuffleNetStages> stages_{nullptr, nullptr, nullptr};
  nn::Linear fc_{nullptr};
};

Parameters ShuffleNetVariant(std::vector<int64_t> widths, int64_t last_width) {
  return {{"depths", std::vector<int64_t>{4, 8, 4}},
          {"widths", std::move(widths)},
          {"stem_width", int64_t{24}},
          {"last_width", last_width}};
}

class ShuffleNetV2Family final : public Family {
 public:
  absl::string_view name() const override { return "shufflenetv2"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const std::vector<Variant>& variants() const override { return variants_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& /*configured*/) const override {
    if (Find(state, "stage2.0.branch1.0.weight") == nullptr) {
      return absl::NotFoundError("no convolution at stage2.0.branch1.0");
    }
    const LayerShapes layers(state);
    std::vector<int64_t> depths, widths;
    for (int64_t stage = 2; stage < 2 + kShuffleNetStages; ++stage) {
      const std::string prefix = absl::StrCat("stage", stage, ".");
      const auto half = layers.Convolution(prefix + "0.branch1.2");
      if (!half) return absl::NotFoundError(absl::StrCat("no block at stage", stage));
      depths.push_back(CountBlocks(state, prefix));
      widths.push_back(2 * half->out);
    }
    const auto stem = layers.Convolution("conv1.0"), last = layers.Convolution("conv5.0");
    if (!stem || !last) return absl::NotFoundError("no convolution at conv1.0 or conv5.0");
    Inference inference{NumClasses(state, "fc.weight")};
    inference.parameters.merge(Parameters{{"depths", std::move(depths)},
                                          {"widths", std::move(widths)},
                                          {"stem_width", stem->out},
                                          {"last_width", last->out}});
    return inference;
  }

  absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& parameters) const override {
    const absl::Status lengths = CheckLists(name(), parameters, {"widths", "depths"});
    if (!lengths.ok()) return lengths;
    for (const int64_t width : Get<std::vector<int64_t>>(parameters, "widths")) {
      if (width % 2 == 0) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(name(), ": widths: expected even numbers, got ", width));
    }
    const size_t stages = Get<std::vector<int64_t>>(parameters, "widths").size();
    if (stages != kShuffleNetStages) {
      return absl::InvalidArgumentError(
          absl::StrCat(name(), ": widths: expected ", kShuffleNetStages, " numbers, got ", stages));
    }
    return BuildModuleNet<ShuffleNetV2Module>(name(), "ShuffleNetV2",
                                              ImageClassifierSignature(parameters), parameters);
  }

 private:
  const std::vector<ParameterSpec> parameters_ = WithImageClassifierParameters(
      1, {{.name = "depths",
           .type = ParameterSpec::Type::kInts,
           .meaning = "blocks of each of the three stages"},
          {.name = "widths",
           .type = ParameterSpec::Type::kInts,
           .meaning = "channels that each of the three stages gives"},
          {.name = "stem_width", .meaning = "channels of the first convolution"},
          {.name = "last_width", .meaning = "channels of the last convolution"}});
  const std::vector<Variant> variants_ = {
      {"shufflenet_v2_x0_5", ShuffleNetVariant({48, 96, 192}, 1024)},
      {"shufflenet_v2_x1_0", ShuffleNetVariant({116, 232, 464}, 1024)},
      {"shufflenet_v2_x1_5", ShuffleNetVariant({176, 352, 704}, 1024)},
      {"shufflenet_v2_x2_0", ShuffleNetVariant({244, 488, 976}, 2048)},
  };
};

}  // namespace

const Family& ShuffleNetV2() {
  static const auto* const family = new ShuffleNetV2Family;
  return *family;
}

}  // namespace sconce::models
