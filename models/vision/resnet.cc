// ResNet, ResNeXt and wide ResNet as torchvision has them (the stride of a bottleneck is in its 3x3
// convolution), with its parameter names.
#include <ATen/ops/flatten.h>

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/families.h"
#include "models/vision/blocks.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

constexpr int64_t kResNetExpansion = 4;
constexpr int64_t kResNetStages = 4;

// A residual block: its convolutions' output plus its input, the latter projected where the shape
// changes.
class ResNetBlock : public nn::Module {
 public:
  virtual at::Tensor forward(const at::Tensor& input) = 0;

 protected:
  void RegisterDownsample(int64_t in, int64_t out, int64_t stride) {
    if (stride == 1 && in == out) return;
    const nn::Conv2d projection = Convolution(in, out, 1, stride);
    downsample_ = register_module("downsample", Layers(projection, NormAfter(projection)));
  }

  at::Tensor AddShortcut(at::Tensor output, const at::Tensor& input) {
    output += downsample_.is_empty() ? input : downsample_->forward(input);
    return relu_->forward(output);
  }

  Activation relu_{nullptr};

 private:
  Layers downsample_{nullptr};
};

class ResNetBasicBlock final : public ResNetBlock {
 public:
  ResNetBasicBlock(int64_t in, int64_t planes, int64_t stride) {
    conv1_ = register_module("conv1", Convolution(in, planes, 3, stride));
    bn1_ = register_module("bn1", NormAfter(conv1_));
    relu_ = register_module("relu", Activation(ActivationKind::kRelu));
    conv2_ = register_module("conv2", Convolution(planes, planes, 3));
    bn2_ = register_module("bn2", NormAfter(conv2_));
    RegisterDownsample(in, planes, stride);
  }

  at::Tensor forward(const at::Tensor& input) override {
    at::Tensor x = relu_->forward(bn1_->forward(conv1_->forward(input)));
    x = bn2_->forward(conv2_->forward(x));
    return AddShortcut(std::move(x), input);
  }

 private:
  nn::Conv2d conv1_{nullptr}, conv2_{nullptr};
  FoldableNorm bn1_{nullptr}, bn2_{nullptr};
};

class ResNetBottleneck final : public ResNetBlock {
 public:
  ResNetBottleneck(int64_t in, int64_t planes, int64_t stride, int64_t groups,
                   int64_t width_per_group) {
    const int64_t width = planes * width_per_group / 64 * groups;
    const int64_t out = planes * kResNetExpansion;
    conv1_ = register_module("conv1", Convolution(in, width, 1));
    bn1_ = register_module("bn1", NormAfter(conv1_));
    conv2_ = register_module("conv2", Convolution(width, width, 3, stride, groups));
    bn2_ = register_module("bn2", NormAfter(conv2_));
    conv3_ = register_module("conv3", Convolution(width, out, 1));
    bn3_ = register_module("bn3", NormAfter(conv3_));
    relu_ = register_module("relu", Activation(ActivationKind::kRelu));
    RegisterDownsample(in, out, stride);
  }

  at::Tensor forward(const at::Tensor& input) override {
    at::Tensor x = relu_->forward(bn1_->forward(conv1_->forward(input)));
    x = relu_->forward(bn2_->forward(conv2_->forward(x)));
    x = bn3_->forward(conv3_->forward(x));
    return AddShortcut(std::move(x), input);
  }

 private:
  nn::Conv2d conv1_{nullptr}, conv2_{nullptr}, conv3_{nullptr};
  FoldableNorm bn1_{nullptr}, bn2_{nullptr}, bn3_{nullptr};
};

// The blocks between which the image keeps its size: one after the other.
class ResNetStage final : public nn::Module {
 public:
  void Add(std::shared_ptr<ResNetBlock> block) {
    blocks_.push_back(register_module(std::to_string(blocks_.size()), std::move(block)));
  }

  at::Tensor forward(at::Tensor x) {
    for (const std::shared_ptr<ResNetBlock>& block : blocks_) x = block->forward(x);
    return x;
  }

 private:
  std::vector<std::shared_ptr<ResNetBlock>> blocks_;
};

class ResNetModule final : public nn::Module {
 public:
  explicit ResNetModule(const Parameters& parameters) {
    const bool bottleneck = Get<bool>(parameters, "bottleneck");
    const auto& blocks = Get<std::vector<int64_t>>(parameters, "blocks");
    const int64_t groups = Get<int64_t>(parameters, "groups");
    const int64_t width_per_group = Get<int64_t>(parameters, "width_per_group");
    int64_t channels = 64;
    conv1_ = register_module("conv1", Convolution(3, channels, 7, 2));
    bn1_ = register_module("bn1", NormAfter(conv1_));
    relu_ = register_module("relu", Activation(ActivationKind::kRelu));
    maxpool_ = register_module("maxpool", MaxPool(3, 2, 1));
    for (size_t i = 0; i < stages_.size(); ++i) {
      stages_[i] =
          register_module("layer" + std::to_string(i + 1), std::make_shared<ResNetStage>());
      const int64_t planes = int64_t{64} << i;
      for (int64_t block = 0; block < blocks[i]; ++block) {
        const int64_t stride = block == 0 && i > 0 ? 2 : 1;
        if (bottleneck) {
          stages_[i]->Add(std::make_shared<ResNetBottleneck>(channels, planes, stride, groups,
                                                             width_per_group));
          channels = planes * kResNetExpansion;
        } else {
          stages_[i]->Add(std::make_shared<ResNetBasicBlock>(channels, planes, stride));
          channels = planes;
        }
      }
    }
    avgpool_ = register_module("avgpool", GlobalPool());
    fc_ = register_module("fc", nn::Linear(channels, Get<int64_t>(parameters, "num_classes")));
  }

  at::Tensor forward(const at::Tensor& input) {
    at::Tensor x = relu_->forward(bn1_->forward(conv1_->forward(input)));
    x = maxpool_->forward(x);
    for (const std::shared_ptr<ResNetStage>& stage : stages_) x = stage->forward(x);
    return fc_->forward(at::flatten(avgpool_->forward(x), 1));
  }

 private:
  nn::Conv2d conv1_{nullptr};
  FoldableNorm bn1_{nullptr};
  Activation relu_{nullptr};
  nn::MaxPool2d maxpool_{nullptr};
  std::array<std::shared_ptr<ResNetStage>, kResNetStages> stages_;
  nn::AdaptiveAvgPool2d avgpool_{nullptr};
  nn::Linear fc_{nullptr};
};

Parameters ResNetVariant(bool bottleneck, std::vector<int64_t> blocks, int64_t groups = 1,
                         int64_t width_per_group = 64) {
  return {{"bottleneck", bottleneck},
          {"blocks", std::move(blocks)},
          {"groups", groups},
          {"width_per_group", width_per_group}};
}

class ResNetFamily final : public Family {
 public:
  absl::string_view name() const override { return "resnet"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const std::vector<Variant>& variants() const override { return variants_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& /*configured*/) const override {
    const NamedShape* first = Find(state, "layer1.0.conv1.weight");
    const NamedShape* second = Find(state, "layer1.0.conv2.weight");
    if (first == nullptr || first->shape.size() != 4 || second == nullptr ||
        second->shape.size() != 4 || second->shape[1] < 1) {
      return absl::NotFoundError("no convolutions at layer1.0.conv1 and layer1.0.conv2");
    }
    std::vector<int64_t> blocks;
    for (int64_t stage = 1; stage <= kResNetStages; ++stage) {
      blocks.push_back(CountBlocks(state, absl::StrCat("layer", stage, ".")));
      if (blocks.back() == 0) {
        return absl::NotFoundError(absl::StrCat("no block at layer", stage));
      }
    }
    const bool bottleneck = Find(state, "layer1.0.conv3.weight") != nullptr;
    // A grouped convolution sees the channels of one group: width / groups, and width is groups *
    // width_per_group in the first stage.
    const int64_t width = first->shape[0], width_per_group = second->shape[1];
    Inference inference{NumClasses(state, "fc.weight")};
    inference.parameters.merge(
        ResNetVariant(bottleneck, std::move(blocks), width / width_per_group, width_per_group));
    return inference;
  }

  absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& parameters) const override {
    if (Get<std::vector<int64_t>>(parameters, "blocks").size() != kResNetStages) {
      return absl::InvalidArgumentError(absl::StrCat("resnet: blocks: expected ", kResNetStages,
                                                     " numbers, got ",
                                                     ToString(parameters.at("blocks"))));
    }
    return BuildModuleNet<ResNetModule>(name(), "ResNet", ImageClassifierSignature(parameters),
                                        parameters);
  }

 private:
  const std::vector<ParameterSpec> parameters_ = WithImageClassifierParameters(
      1,
      {{.name = "bottleneck",
        .type = ParameterSpec::Type::kBool,
        .default_value = true,
        .meaning = "blocks of three convolutions, else of two"},
       {.name = "blocks",
        .type = ParameterSpec::Type::kInts,
        .meaning = "blocks of each of the four stages"},
       {.name = "groups", .default_value = int64_t{1}, .meaning = "groups of the 3x3 convolutions"},
       {.name = "width_per_group",
        .default_value = int64_t{64},
        .meaning = "channels of a group in the first stage"}});
  const std::vector<Variant> variants_ = {
      {"resnet18", ResNetVariant(false, {2, 2, 2, 2})},
      {"resnet34", ResNetVariant(false, {3, 4, 6, 3})},
      {"resnet50", ResNetVariant(true, {3, 4, 6, 3})},
      {"resnet101", ResNetVariant(true, {3, 4, 23, 3})},
      {"resnet152", ResNetVariant(true, {3, 8, 36, 3})},
      {"resnext50_32x4d", ResNetVariant(true, {3, 4, 6, 3}, 32, 4)},
      {"resnext101_32x8d", ResNetVariant(true, {3, 4, 23, 3}, 32, 8)},
      {"resnext101_64x4d", ResNetVariant(true, {3, 4, 23, 3}, 64, 4)},
      {"wide_resnet50_2", ResNetVariant(true, {3, 4, 6, 3}, 1, 128)},
      {"wide_resnet101_2", ResNetVariant(true, {3, 4, 23, 3}, 1, 128)},
  };
};

}  // namespace

const Family& ResNet() {
  static const auto* const family = new ResNetFamily;
  return *family;
}

}  // namespace sconce::models
