// ResNet, ResNeXt and wide ResNet as torchvision has them (the stride of a bottleneck is in its 3x3
// convolution), with its parameter names.
#include <ATen/ops/flatten.h>

#include <array>
#include <utility>

#include "models/families.h"
#include "models/module_net.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

struct ResNetVariant {
  const char* name;
  bool bottleneck;
  std::array<int, 4> blocks;  // per stage
  int64_t groups;
  int64_t width_per_group;
};

constexpr ResNetVariant kResNetVariants[] = {
    {"resnet18", false, {2, 2, 2, 2}, 1, 64},
    {"resnet34", false, {3, 4, 6, 3}, 1, 64},
    {"resnet50", true, {3, 4, 6, 3}, 1, 64},
    {"resnet101", true, {3, 4, 23, 3}, 1, 64},
    {"resnet152", true, {3, 8, 36, 3}, 1, 64},
    {"resnext50_32x4d", true, {3, 4, 6, 3}, 32, 4},
    {"resnext101_32x8d", true, {3, 4, 23, 3}, 32, 8},
    {"resnext101_64x4d", true, {3, 4, 23, 3}, 64, 4},
    {"wide_resnet50_2", true, {3, 4, 6, 3}, 1, 128},
    {"wide_resnet101_2", true, {3, 4, 23, 3}, 1, 128},
};

constexpr int64_t kBottleneckExpansion = 4;

nn::Conv2d Convolution(int64_t in, int64_t out, int64_t kernel, int64_t stride = 1,
                       int64_t groups = 1) {
  return nn::Conv2d(nn::Conv2dOptions(in, out, kernel)
                        .stride(stride)
                        .padding(kernel / 2)
                        .groups(groups)
                        .bias(false));
}

nn::ReLU InplaceRelu() { return nn::ReLU(nn::ReLUOptions(/*inplace=*/true)); }

// A residual block: its convolutions' output plus its input, the latter projected where the shape
// changes.
class Block : public nn::Module {
 public:
  virtual at::Tensor forward(const at::Tensor& input) = 0;

 protected:
  void RegisterDownsample(int64_t in, int64_t out, int64_t stride) {
    if (stride == 1 && in == out) return;
    downsample_ = register_module(
        "downsample", nn::Sequential(Convolution(in, out, 1, stride), nn::BatchNorm2d(out)));
  }

  at::Tensor AddShortcut(at::Tensor output, const at::Tensor& input) {
    output += downsample_.is_empty() ? input : downsample_->forward(input);
    return relu_->forward(output);
  }

  nn::ReLU relu_{nullptr};

 private:
  nn::Sequential downsample_{nullptr};
};

class BasicBlock final : public Block {
 public:
  BasicBlock(int64_t in, int64_t planes, int64_t stride) {
    conv1_ = register_module("conv1", Convolution(in, planes, 3, stride));
    bn1_ = register_module("bn1", nn::BatchNorm2d(planes));
    relu_ = register_module("relu", InplaceRelu());
    conv2_ = register_module("conv2", Convolution(planes, planes, 3));
    bn2_ = register_module("bn2", nn::BatchNorm2d(planes));
    RegisterDownsample(in, planes, stride);
  }

  at::Tensor forward(const at::Tensor& input) override {
    at::Tensor x = relu_->forward(bn1_->forward(conv1_->forward(input)));
    x = bn2_->forward(conv2_->forward(x));
    return AddShortcut(std::move(x), input);
  }

 private:
  nn::Conv2d conv1_{nullptr}, conv2_{nullptr};
  nn::BatchNorm2d bn1_{nullptr}, bn2_{nullptr};
};

class Bottleneck final : public Block {
 public:
  Bottleneck(int64_t in, int64_t planes, int64_t stride, int64_t groups, int64_t width_per_group) {
    const int64_t width = planes * width_per_group / 64 * groups;
    const int64_t out = planes * kBottleneckExpansion;
    conv1_ = register_module("conv1", Convolution(in, width, 1));
    bn1_ = register_module("bn1", nn::BatchNorm2d(width));
    conv2_ = register_module("conv2", Convolution(width, width, 3, stride, groups));
    bn2_ = register_module("bn2", nn::BatchNorm2d(width));
    conv3_ = register_module("conv3", Convolution(width, out, 1));
    bn3_ = register_module("bn3", nn::BatchNorm2d(out));
    relu_ = register_module("relu", InplaceRelu());
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
  nn::BatchNorm2d bn1_{nullptr}, bn2_{nullptr}, bn3_{nullptr};
};

// The blocks between which the image keeps its size: an nn.Sequential of them.
class Stage final : public nn::Module {
 public:
  void Add(std::shared_ptr<Block> block) {
    blocks_.push_back(register_module(std::to_string(blocks_.size()), std::move(block)));
  }

  at::Tensor forward(at::Tensor x) {
    for (const std::shared_ptr<Block>& block : blocks_) x = block->forward(x);
    return x;
  }

 private:
  std::vector<std::shared_ptr<Block>> blocks_;
};

class ResNetModule final : public nn::Module {
 public:
  ResNetModule(const ResNetVariant& variant, int64_t num_classes) {
    int64_t channels = 64;
    conv1_ = register_module(
        "conv1", nn::Conv2d(nn::Conv2dOptions(3, channels, 7).stride(2).padding(3).bias(false)));
    bn1_ = register_module("bn1", nn::BatchNorm2d(channels));
    relu_ = register_module("relu", InplaceRelu());
    maxpool_ =
        register_module("maxpool", nn::MaxPool2d(nn::MaxPool2dOptions(3).stride(2).padding(1)));
    for (size_t i = 0; i < stages_.size(); ++i) {
      stages_[i] = register_module("layer" + std::to_string(i + 1), std::make_shared<Stage>());
      const int64_t planes = int64_t{64} << i;
      for (int block = 0; block < variant.blocks[i]; ++block) {
        const int64_t stride = block == 0 && i > 0 ? 2 : 1;
        if (variant.bottleneck) {
          stages_[i]->Add(std::make_shared<Bottleneck>(channels, planes, stride, variant.groups,
                                                       variant.width_per_group));
          channels = planes * kBottleneckExpansion;
        } else {
          stages_[i]->Add(std::make_shared<BasicBlock>(channels, planes, stride));
          channels = planes;
        }
      }
    }
    avgpool_ =
        register_module("avgpool", nn::AdaptiveAvgPool2d(nn::AdaptiveAvgPool2dOptions({1, 1})));
    fc_ = register_module("fc", nn::Linear(channels, num_classes));
  }

  at::Tensor forward(const at::Tensor& input) {
    at::Tensor x = relu_->forward(bn1_->forward(conv1_->forward(input)));
    x = maxpool_->forward(x);
    for (const std::shared_ptr<Stage>& stage : stages_) x = stage->forward(x);
    return fc_->forward(at::flatten(avgpool_->forward(x), 1));
  }

 private:
  nn::Conv2d conv1_{nullptr};
  nn::BatchNorm2d bn1_{nullptr};
  nn::ReLU relu_{nullptr};
  nn::MaxPool2d maxpool_{nullptr};
  std::array<std::shared_ptr<Stage>, 4> stages_;
  nn::AdaptiveAvgPool2d avgpool_{nullptr};
  nn::Linear fc_{nullptr};
};

class ResNetArchitecture final : public Architecture {
 public:
  explicit ResNetArchitecture(const ResNetVariant& variant) : variant_(variant) {}

  absl::string_view name() const override { return variant_.name; }
  absl::string_view family() const override { return "resnet"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& /*configured*/) const override {
    return Inference{NumClasses(state, "fc.weight"), ""};
  }

  absl::StatusOr<std::unique_ptr<Net>> Create(const Parameters& parameters) const override {
    absl::StatusOr<Parameters> complete = CompleteParameters(*this, parameters);
    if (!complete.ok()) return complete.status();
    return BuildModuleNet<ResNetModule>(*this, "ResNet", ImageClassifierSignature(*complete),
                                        variant_, Get<int64_t>(*complete, "num_classes"));
  }

 private:
  const ResNetVariant& variant_;
  const std::vector<ParameterSpec> parameters_ = ImageClassifierParameters(1);
};

}  // namespace

std::vector<const Architecture*> ResNets() {
  std::vector<const Architecture*> all;
  for (const ResNetVariant& variant : kResNetVariants)
    all.push_back(new ResNetArchitecture(variant));
  return all;
}

}  // namespace sconce::models
