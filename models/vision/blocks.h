// Building blocks that several of torchvision's families share, with torchvision's names for their
// parts and its operators in its order, so that results are Python's bit by bit.
//
// Modules belong to the network they are registered in and are called as a Net is.
#ifndef SCONCE_MODELS_VISION_BLOCKS_H_
#define SCONCE_MODELS_VISION_BLOCKS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "models/architecture.h"
#include "models/foldable_norm.h"
#include "models/module_net.h"

namespace sconce::models {

// Modules one after the other, under the names "0", "1", ... or their own. LibTorch's Sequential
// cannot hold others of its kind.
class LayersImpl final : public torch::nn::SequentialImpl {
 public:
  using SequentialImpl::SequentialImpl;

  at::Tensor forward(at::Tensor x) { return SequentialImpl::forward(std::move(x)); }
};
TORCH_MODULE(Layers);

enum class ActivationKind { kRelu, kRelu6, kSilu, kHardswish, kHardsigmoid, kSigmoid };

// LibTorch has modules for some of these alone, and not all of them in place.
class ActivationImpl final : public torch::nn::Module {
 public:
  // `inplace`: overwrites its input; sigmoid never does.
  explicit ActivationImpl(ActivationKind kind, bool inplace = true)
      : kind_(kind), inplace_(inplace) {}

  at::Tensor forward(at::Tensor x);

 private:
  const ActivationKind kind_;
  const bool inplace_;
};
TORCH_MODULE(Activation);

// A square convolution without bias that keeps the image's size but for its stride.
torch::nn::Conv2d Convolution(int64_t in, int64_t out, int64_t kernel, int64_t stride = 1,
                              int64_t groups = 1);

// Not right after a convolution; else NormAfter (foldable_norm.h).
torch::nn::BatchNorm2d BatchNorm(int64_t channels, double eps = 1e-5);

torch::nn::MaxPool2d MaxPool(int64_t kernel, int64_t stride, int64_t padding = 0,
                             bool ceil_mode = false);

// To one pixel.
torch::nn::AdaptiveAvgPool2d GlobalPool();

// Appends a convolution, its batch norm and an activation.
void AppendConvNorm(Layers& layers, const torch::nn::Conv2d& convolution,
                    std::optional<ActivationKind> activation = std::nullopt, double eps = 1e-5);

// torchvision's Conv2dNormActivation: "0" the convolution, "1" its batch norm, "2" the activation.
Layers ConvNormActivation(const torch::nn::Conv2d& convolution,
                          std::optional<ActivationKind> activation, double eps = 1e-5);

// Weighs each channel by what all channels are on average over the image.
class SqueezeExcitation final : public torch::nn::Module {
 public:
  SqueezeExcitation(int64_t channels, int64_t squeezed, Activation activation,
                    ActivationKind scale_activation);

  at::Tensor forward(const at::Tensor& input);

 private:
  torch::nn::AdaptiveAvgPool2d avgpool_;
  torch::nn::Conv2d fc1_, fc2_;
  Activation activation_, scale_activation_;
};

// torchvision's BasicConv2d: a convolution, its batch norm, ReLU.
class BasicConvolutionImpl final : public torch::nn::Module {
 public:
  explicit BasicConvolutionImpl(torch::nn::Conv2dOptions options);

  at::Tensor forward(const at::Tensor& input);

 private:
  torch::nn::Conv2d conv_;
  FoldableNorm bn_;
};
TORCH_MODULE(BasicConvolution);

// A block whose input is added to what its layers give, where that keeps the shape.
class ResidualLayers : public torch::nn::Module {
 public:
  at::Tensor forward(const at::Tensor& input);

 protected:
  explicit ResidualLayers(bool residual) : residual_(residual) {
    block_ = register_module("block", Layers());
  }

  Layers block_{nullptr};

 private:
  const bool residual_;
};

// A classifier of three parts: features, a pooling of them, and layers upon that. Those who derive
// from it register them, in their order.
class PooledClassifier : public torch::nn::Module {
 public:
  at::Tensor forward(const at::Tensor& input);

 protected:
  PooledClassifier() = default;

  Layers features_{nullptr}, classifier_{nullptr};
  torch::nn::AdaptiveAvgPool2d avgpool_{nullptr};
};

// The parameter transform_input of the networks that torchvision ported from TensorFlow.
ParameterSpec TransformInput();

// What is assumed of it: "" where `configured` has it.
std::string TransformInputAssumption(absl::string_view family, const Parameters& configured);

// transform_input: the images, normalised with ImageNet's statistics, normalised as TensorFlow's
// networks want them instead.
at::Tensor TransformedInput(const at::Tensor& images);

// Heads that are of use in training alone. Of weights whose last layer was replaced, they may still
// have the classes of before. The parameters aux_logits (whether the weights have `heads`) and
// aux_classes; what the last layer's weight (`name`) tells of both; and their number of classes.
ParameterSpec AuxiliaryHeads(absl::string_view heads);
ParameterSpec AuxiliaryClassesSpec();
void InferAuxiliaryHeads(absl::Span<const NamedShape> state, absl::string_view name,
                         Parameters& parameters);
int64_t AuxiliaryClasses(const Parameters& parameters);

// What GoogLeNet and Inception v3 have in common: a body of named parts, each run on what the one
// before gave, and a linear layer upon their average.
class InceptionNetwork : public torch::nn::Module {
 public:
  at::Tensor forward(const at::Tensor& input);

 protected:
  explicit InceptionNetwork(bool transform_input) : transform_input_(transform_input) {}

  template <typename Part>
  void Add(const std::string& name, Part part) {
    body_.emplace_back(register_module(name, std::move(part)));
  }

  // The last parts.
  void AddHead(int64_t channels, int64_t num_classes);

 private:
  const bool transform_input_;
  std::vector<torch::nn::AnyModule> body_;
  torch::nn::AdaptiveAvgPool2d avgpool_{nullptr};
  torch::nn::Linear fc_{nullptr};
};

// The multiple of `divisor` nearest to `value`, but no less than nine tenths of it.
int64_t MakeDivisible(double value, int64_t divisor);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_VISION_BLOCKS_H_
