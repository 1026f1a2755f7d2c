#include "models/vision/blocks.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/flatten.h>
#include <ATen/ops/hardsigmoid.h>
#include <ATen/ops/hardswish.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/relu6.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/unsqueeze.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace sconce::models {

namespace nn = torch::nn;

at::Tensor ActivationImpl::forward(at::Tensor x) {
  switch (kind_) {
    case ActivationKind::kRelu:
      return inplace_ ? at::relu_(x) : at::relu(x);
    case ActivationKind::kRelu6:
      return inplace_ ? at::relu6_(x) : at::relu6(x);
    case ActivationKind::kSilu:
      return inplace_ ? at::silu_(x) : at::silu(x);
    case ActivationKind::kHardswish:
      return inplace_ ? at::hardswish_(x) : at::hardswish(x);
    case ActivationKind::kHardsigmoid:
      return inplace_ ? at::hardsigmoid_(x) : at::hardsigmoid(x);
    case ActivationKind::kSigmoid:
      break;
  }
  return at::sigmoid(x);
}

nn::Conv2d Convolution(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t groups) {
  return nn::Conv2d(nn::Conv2dOptions(in, out, kernel)
                        .stride(stride)
                        .padding((kernel - 1) / 2)
                        .groups(groups)
                        .bias(false));
}

nn::BatchNorm2d BatchNorm(int64_t channels, double eps) {
  return nn::BatchNorm2d(nn::BatchNorm2dOptions(channels).eps(eps));
}

nn::MaxPool2d MaxPool(int64_t kernel, int64_t stride, int64_t padding, bool ceil_mode) {
  return nn::MaxPool2d(
      nn::MaxPool2dOptions(kernel).stride(stride).padding(padding).ceil_mode(ceil_mode));
}

nn::AdaptiveAvgPool2d GlobalPool() {
  return nn::AdaptiveAvgPool2d(nn::AdaptiveAvgPool2dOptions({1, 1}));
}

void AppendConvNorm(Layers& layers, const nn::Conv2d& convolution,
                    std::optional<ActivationKind> activation, double eps) {
  layers->push_back(convolution);
  layers->push_back(NormAfter(convolution, eps));
  if (activation) layers->push_back(Activation(*activation));
}

Layers ConvNormActivation(const nn::Conv2d& convolution, std::optional<ActivationKind> activation,
                          double eps) {
  Layers layers;
  AppendConvNorm(layers, convolution, activation, eps);
  return layers;
}

SqueezeExcitation::SqueezeExcitation(int64_t channels, int64_t squeezed, Activation activation,
                                     ActivationKind scale_activation)
    : avgpool_(register_module("avgpool", GlobalPool())),
      fc1_(register_module("fc1", nn::Conv2d(nn::Conv2dOptions(channels, squeezed, 1)))),
      fc2_(register_module("fc2", nn::Conv2d(nn::Conv2dOptions(squeezed, channels, 1)))),
      activation_(register_module("activation", std::move(activation))),
      scale_activation_(
          register_module("scale_activation", Activation(scale_activation, /*inplace=*/false))) {}

at::Tensor SqueezeExcitation::forward(const at::Tensor& input) {
  at::Tensor scale = activation_->forward(fc1_->forward(avgpool_->forward(input)));
  scale = scale_activation_->forward(fc2_->forward(scale));
  return scale * input;
}

BasicConvolutionImpl::BasicConvolutionImpl(nn::Conv2dOptions options)
    : conv_(register_module("conv", nn::Conv2d(options.bias(false)))),
      bn_(register_module("bn", NormAfter(conv_, /*eps=*/1e-3))) {}

at::Tensor BasicConvolutionImpl::forward(const at::Tensor& input) {
  at::Tensor x = bn_->forward(conv_->forward(input));
  return at::relu_(x);
}

ParameterSpec TransformInput() {
  return {.name = "transform_input",
          .type = ParameterSpec::Type::kBool,
          .default_value = false,
          .meaning =
              "whether images normalised with ImageNet's statistics are normalised anew, as "
              "torchvision's pretrained weights want it"};
}

std::string TransformInputAssumption(absl::string_view family, const Parameters& configured) {
  if (configured.contains("transform_input")) return "";
  return absl::StrCat(
      "transform_input is not in the file: false is assumed, as in networks trained from scratch; "
      "weights that come from torchvision's pretrained ones want true, set in config.pbtxt with "
      "architecture { name: \"",
      family, "\" parameters { key: \"transform_input\" value: \"true\" } }");
}

ParameterSpec AuxiliaryHeads(absl::string_view heads) {
  return {.name = "aux_logits",
          .type = ParameterSpec::Type::kBool,
          .default_value = false,
          .meaning = absl::StrCat("whether the weights have ", heads)};
}

ParameterSpec AuxiliaryClassesSpec() {
  return {.name = "aux_classes",
          .default_value = int64_t{0},
          .meaning = "classes of the auxiliary heads; 0: as many as num_classes",
          .minimum = 0};
}

void InferAuxiliaryHeads(absl::Span<const NamedShape> state, absl::string_view name,
                         Parameters& parameters) {
  const NamedShape* const weight = Find(state, name);
  parameters["aux_logits"] = weight != nullptr;
  if (weight == nullptr || weight->shape.size() != 2) return;
  const ParameterValue classes = weight->shape[0];
  const auto own = parameters.find("num_classes");
  if (own != parameters.end() && own->second != classes) parameters["aux_classes"] = classes;
}

int64_t AuxiliaryClasses(const Parameters& parameters) {
  const int64_t classes = Get<int64_t>(parameters, "aux_classes");
  return classes == 0 ? Get<int64_t>(parameters, "num_classes") : classes;
}

at::Tensor TransformedInput(const at::Tensor& images) {
  constexpr double kMean[] = {0.485, 0.456, 0.406}, kDeviation[] = {0.229, 0.224, 0.225};
  std::vector<at::Tensor> channels;
  for (int64_t i = 0; i < 3; ++i) {
    channels.push_back(at::unsqueeze(images.select(1, i), 1) * (kDeviation[i] / 0.5) +
                       (kMean[i] - 0.5) / 0.5);
  }
  return at::cat(channels, 1);
}

int64_t MakeDivisible(double value, int64_t divisor) {
  const auto rounded = static_cast<int64_t>(value + static_cast<double>(divisor) / 2);
  const int64_t nearest = std::max(divisor, rounded / divisor * divisor);
  return static_cast<double>(nearest) < 0.9 * value ? nearest + divisor : nearest;
}

at::Tensor ResidualLayers::forward(const at::Tensor& input) {
  at::Tensor result = block_->forward(input);
  if (residual_) result += input;
  return result;
}

at::Tensor PooledClassifier::forward(const at::Tensor& input) {
  const at::Tensor x = avgpool_->forward(features_->forward(input));
  return classifier_->forward(at::flatten(x, 1));
}

at::Tensor InceptionNetwork::forward(const at::Tensor& input) {
  at::Tensor x = transform_input_ ? TransformedInput(input) : input;
  for (torch::nn::AnyModule& part : body_) x = part.forward(std::move(x));
  return fc_->forward(at::flatten(avgpool_->forward(x), 1));
}

void InceptionNetwork::AddHead(int64_t channels, int64_t num_classes) {
  avgpool_ = register_module("avgpool", GlobalPool());
  register_module("dropout", torch::nn::Dropout());
  fc_ = register_module("fc", torch::nn::Linear(channels, num_classes));
}

}  // namespace sconce::models
