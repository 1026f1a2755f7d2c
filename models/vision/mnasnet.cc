// MNASNet as torchvision has it, with its parameter names. Its first version, which scaled neither
// the first convolution nor the one after it, is a choice of widths like any other.
#include <ATen/ops/mean.h>

#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/families.h"
#include "models/vision/blocks.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

struct MnasNetStage {
  int64_t kernel, stride, expansion, depth;
};

constexpr MnasNetStage kMnasNetStages[] = {{3, 2, 3, 3}, {5, 2, 3, 3}, {5, 2, 6, 3},
                                           {3, 1, 6, 2}, {5, 2, 6, 4}, {3, 1, 6, 1}};
constexpr int64_t kMnasNetLastWidth = 1280;
// Of the first convolution, of the one after it, and of each stage.
constexpr int64_t kMnasNetWidths[] = {32, 16, 24, 40, 80, 96, 192, 320};
constexpr size_t kMnasNetFirstStage = std::size(kMnasNetWidths) - std::size(kMnasNetStages);
// Where the stages are among the layers.
constexpr size_t kMnasNetStagePosition = 8;

class MnasNetBlock final : public nn::Module {
 public:
  MnasNetBlock(const MnasNetStage& stage, int64_t in, int64_t out, int64_t stride)
      : residual_(in == out && stride == 1) {
    const int64_t inner = in * stage.expansion;
    layers_ = register_module("layers", Layers());
    AppendConvNorm(layers_, Convolution(in, inner, 1), ActivationKind::kRelu);
    AppendConvNorm(layers_, Convolution(inner, inner, stage.kernel, stride, inner),
                   ActivationKind::kRelu);
    AppendConvNorm(layers_, Convolution(inner, out, 1));
  }

  at::Tensor forward(const at::Tensor& input) {
    return residual_ ? layers_->forward(input) + input : layers_->forward(input);
  }

 private:
  const bool residual_;
  Layers layers_{nullptr};
};

class MnasNetModule final : public nn::Module {
 public:
  explicit MnasNetModule(const Parameters& parameters) {
    const auto& widths = Get<std::vector<int64_t>>(parameters, "widths");
    layers_ = register_module("layers", Layers());
    AppendConvNorm(layers_, Convolution(3, widths[0], 3, 2), ActivationKind::kRelu);
    AppendConvNorm(layers_, Convolution(widths[0], widths[0], 3, 1, widths[0]),
                   ActivationKind::kRelu);
    AppendConvNorm(layers_, Convolution(widths[0], widths[1], 1));
    int64_t channels = widths[1];
    for (size_t i = 0; i < std::size(kMnasNetStages); ++i) {
      const MnasNetStage& stage = kMnasNetStages[i];
      const int64_t width = widths[kMnasNetFirstStage + i];
      Layers blocks;
      for (int64_t block = 0; block < stage.depth; ++block) {
        blocks->push_back(
            std::make_shared<MnasNetBlock>(stage, channels, width, block == 0 ? stage.stride : 1));
        channels = width;
      }
      layers_->push_back(blocks);
    }
    AppendConvNorm(layers_, Convolution(channels, kMnasNetLastWidth, 1), ActivationKind::kRelu);
    classifier_ = register_module(
        "classifier", Layers(nn::Dropout(), nn::Linear(kMnasNetLastWidth,
                                                       Get<int64_t>(parameters, "num_classes"))));
  }

  at::Tensor forward(const at::Tensor& input) {
    return classifier_->forward(at::mean(layers_->forward(input), {2, 3}));
  }

 private:
  Layers layers_{nullptr}, classifier_{nullptr};
};

Parameters MnasNetVariant(double alpha) {
  std::vector<int64_t> widths;
  for (const int64_t width : kMnasNetWidths) {
    widths.push_back(MakeDivisible(static_cast<double>(width) * alpha, 8));
  }
  return {{"widths", std::move(widths)}};
}

class MnasNetFamily final : public Family {
 public:
  absl::string_view name() const override { return "mnasnet"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const std::vector<Variant>& variants() const override { return variants_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& /*configured*/) const override {
    if (Find(state, "layers.8.0.layers.0.weight") == nullptr) {
      return absl::NotFoundError("no convolution at layers.8.0.layers.0");
    }
    const LayerShapes layers(state);
    std::vector<int64_t> widths;
    const auto add = [&](const std::string& layer) {
      if (const auto convolution = layers.Convolution(layer)) widths.push_back(convolution->out);
    };
    add("layers.0");
    add("layers.6");
    for (size_t i = 0; i < std::size(kMnasNetStages); ++i) {
      add(absl::StrCat("layers.", kMnasNetStagePosition + i, ".0.layers.6"));
    }
    if (widths.size() != std::size(kMnasNetWidths)) {
      return absl::NotFoundError("not the convolutions of six stages");
    }
    Inference inference{NumClasses(state, "classifier.1.weight")};
    inference.parameters["widths"] = std::move(widths);
    return inference;
  }

  absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& parameters) const override {
    const size_t widths = Get<std::vector<int64_t>>(parameters, "widths").size();
    if (widths != std::size(kMnasNetWidths)) {
      return absl::InvalidArgumentError(absl::StrCat(
          name(), ": widths: expected ", std::size(kMnasNetWidths), " numbers, got ", widths));
    }
    return BuildModuleNet<MnasNetModule>(name(), "MNASNet", ImageClassifierSignature(parameters),
                                         parameters);
  }

 private:
  const std::vector<ParameterSpec> parameters_ = WithImageClassifierParameters(
      1,
      {{.name = "widths",
        .type = ParameterSpec::Type::kInts,
        .meaning = "channels of the first convolution, of the one after it, and of each stage"}});
  const std::vector<Variant> variants_ = {
      {"mnasnet0_5", MnasNetVariant(0.5)},
      {"mnasnet0_75", MnasNetVariant(0.75)},
      {"mnasnet1_0", MnasNetVariant(1.0)},
      {"mnasnet1_3", MnasNetVariant(1.3)},
  };
};

}  // namespace

const Family& MnasNet() {
  static const auto* const family = new MnasNetFamily;
  return *family;
}

}  // namespace sconce::models
