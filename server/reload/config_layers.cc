#include "server/reload/config_layers.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sconce {
namespace {

using config::ModelLayer;
using models::ActivationLayer;
using models::PoolLayer;
using models::Sizes;

template <typename Repeated>
Sizes SizesOf(const Repeated& sizes) {
  return {sizes.begin(), sizes.end()};
}

models::LinearLayer Linear(const ModelLayer::Linear& layer) {
  models::LinearLayer out{.out_features = layer.out_features()};
  if (layer.has_bias()) out.bias = layer.bias();
  return out;
}

models::ConvolutionLayer Convolution(const ModelLayer::Convolution& layer, int dimensions) {
  models::ConvolutionLayer out{.dimensions = dimensions,
                               .out_channels = layer.out_channels(),
                               .kernel_size = SizesOf(layer.kernel_size()),
                               .stride = SizesOf(layer.stride()),
                               .padding = SizesOf(layer.padding()),
                               .dilation = SizesOf(layer.dilation())};
  if (layer.has_groups()) out.groups = layer.groups();
  if (layer.has_bias()) out.bias = layer.bias();
  return out;
}

models::BatchNormLayer BatchNorm(const ModelLayer::BatchNorm& layer, int dimensions) {
  models::BatchNormLayer out{.dimensions = dimensions};
  if (layer.has_eps()) out.eps = layer.eps();
  if (layer.has_affine()) out.affine = layer.affine();
  return out;
}

models::LayerNormLayer LayerNorm(const ModelLayer::LayerNorm& layer) {
  models::LayerNormLayer out;
  if (layer.has_dimensions()) out.dimensions = layer.dimensions();
  if (layer.has_eps()) out.eps = layer.eps();
  if (layer.has_elementwise_affine()) out.affine = layer.elementwise_affine();
  return out;
}

models::GroupNormLayer GroupNorm(const ModelLayer::GroupNorm& layer) {
  models::GroupNormLayer out{.groups = layer.num_groups()};
  if (layer.has_eps()) out.eps = layer.eps();
  if (layer.has_affine()) out.affine = layer.affine();
  return out;
}

models::RecurrentLayer Recurrent(const ModelLayer::Recurrent& layer,
                                 models::RecurrentLayer::Kind kind) {
  models::RecurrentLayer out{.kind = kind, .hidden_size = layer.hidden_size()};
  if (layer.has_num_layers()) out.num_layers = layer.num_layers();
  out.bidirectional = layer.bidirectional();
  if (layer.has_bias()) out.bias = layer.bias();
  if (layer.output() == ModelLayer::Recurrent::LAST) {
    out.output = models::RecurrentLayer::Output::kLast;
  }
  return out;
}

PoolLayer MaxPool(const ModelLayer::MaxPool& layer, int dimensions) {
  return {.kind = PoolLayer::Kind::kMax,
          .dimensions = dimensions,
          .kernel_size = SizesOf(layer.kernel_size()),
          .stride = SizesOf(layer.stride()),
          .padding = SizesOf(layer.padding()),
          .dilation = SizesOf(layer.dilation()),
          .ceil_mode = layer.ceil_mode()};
}

PoolLayer AveragePool(const ModelLayer::AveragePool& layer, int dimensions) {
  PoolLayer out{.kind = PoolLayer::Kind::kAverage,
                .dimensions = dimensions,
                .kernel_size = SizesOf(layer.kernel_size()),
                .stride = SizesOf(layer.stride()),
                .padding = SizesOf(layer.padding()),
                .dilation = {},
                .ceil_mode = layer.ceil_mode()};
  if (layer.has_count_include_pad()) out.count_include_pad = layer.count_include_pad();
  return out;
}

models::AdaptivePoolLayer AdaptivePool(const ModelLayer::AdaptivePool& layer, PoolLayer::Kind kind,
                                       int dimensions) {
  return {.kind = kind, .dimensions = dimensions, .output_size = SizesOf(layer.output_size())};
}

ActivationLayer Activation(ActivationLayer::Kind kind, double slope = 0) {
  return {.kind = kind, .slope = slope};
}

ActivationLayer Softmax(const ModelLayer::Softmax& layer) {
  ActivationLayer out{.kind = ActivationLayer::Kind::kSoftmax};
  if (layer.has_dim()) out.dim = layer.dim();
  return out;
}

// REQUIRES: the message says which layer it is.
models::Layer LayerOf(const ModelLayer& layer) {
  using Kind = ActivationLayer::Kind;
  switch (layer.layer_case()) {
    case ModelLayer::kLinear:
      return Linear(layer.linear());
    case ModelLayer::kConv1D:
      return Convolution(layer.conv1d(), 1);
    case ModelLayer::kConv2D:
      return Convolution(layer.conv2d(), 2);
    case ModelLayer::kBatchNorm1D:
      return BatchNorm(layer.batch_norm1d(), 1);
    case ModelLayer::kBatchNorm2D:
      return BatchNorm(layer.batch_norm2d(), 2);
    case ModelLayer::kLayerNorm:
      return LayerNorm(layer.layer_norm());
    case ModelLayer::kGroupNorm:
      return GroupNorm(layer.group_norm());
    case ModelLayer::kEmbedding:
      return models::EmbeddingLayer{.num_embeddings = layer.embedding().num_embeddings(),
                                    .embedding_dim = layer.embedding().embedding_dim()};
    case ModelLayer::kLstm:
      return Recurrent(layer.lstm(), models::RecurrentLayer::Kind::kLstm);
    case ModelLayer::kGru:
      return Recurrent(layer.gru(), models::RecurrentLayer::Kind::kGru);
    case ModelLayer::kMaxPool1D:
      return MaxPool(layer.max_pool1d(), 1);
    case ModelLayer::kMaxPool2D:
      return MaxPool(layer.max_pool2d(), 2);
    case ModelLayer::kAvgPool1D:
      return AveragePool(layer.avg_pool1d(), 1);
    case ModelLayer::kAvgPool2D:
      return AveragePool(layer.avg_pool2d(), 2);
    case ModelLayer::kAdaptiveMaxPool1D:
      return AdaptivePool(layer.adaptive_max_pool1d(), PoolLayer::Kind::kMax, 1);
    case ModelLayer::kAdaptiveMaxPool2D:
      return AdaptivePool(layer.adaptive_max_pool2d(), PoolLayer::Kind::kMax, 2);
    case ModelLayer::kAdaptiveAvgPool1D:
      return AdaptivePool(layer.adaptive_avg_pool1d(), PoolLayer::Kind::kAverage, 1);
    case ModelLayer::kAdaptiveAvgPool2D:
      return AdaptivePool(layer.adaptive_avg_pool2d(), PoolLayer::Kind::kAverage, 2);
    case ModelLayer::kFlatten:
      return models::FlattenLayer{};
    case ModelLayer::kDropout:
      return models::DropoutLayer{};
    case ModelLayer::kRelu:
      return Activation(Kind::kRelu);
    case ModelLayer::kLeakyRelu:
      return Activation(Kind::kLeakyRelu, layer.leaky_relu().has_negative_slope()
                                              ? layer.leaky_relu().negative_slope()
                                              : 0.01);
    case ModelLayer::kElu:
      return Activation(Kind::kElu, layer.elu().has_alpha() ? layer.elu().alpha() : 1.0);
    case ModelLayer::kGelu:
      return Activation(layer.gelu().approximate() == ModelLayer::Gelu::TANH ? Kind::kGeluTanh
                                                                             : Kind::kGelu);
    case ModelLayer::kSilu:
      return Activation(Kind::kSilu);
    case ModelLayer::kTanh:
      return Activation(Kind::kTanh);
    case ModelLayer::kSigmoid:
      return Activation(Kind::kSigmoid);
    case ModelLayer::kHardswish:
      return Activation(Kind::kHardswish);
    case ModelLayer::kSoftmax:
      return Softmax(layer.softmax());
    case ModelLayer::kPermute:
      return models::PermuteLayer{.dims = SizesOf(layer.permute().dims())};
    case ModelLayer::kLastStep:
      return models::LastStepLayer{};
    case ModelLayer::LAYER_NOT_SET:
      break;
  }
  return models::DropoutLayer{};
}

}  // namespace

absl::Status CheckLayers(const Located<config::ModelArchitecture>& architecture, ModelConfig* out) {
  using Message = config::ModelArchitecture;
  const bool sequential = architecture->name() == kSequentialArchitecture;
  if (!sequential) {
    constexpr absl::string_view kOnly = "only of the architecture \"sequential\"";
    if (architecture->has_input()) {
      return architecture.Error(Message::kInputFieldNumber, std::string(kOnly));
    }
    if (architecture->layers_size() > 0) {
      return architecture.Error(Message::kLayersFieldNumber, std::string(kOnly), 0);
    }
    return absl::OkStatus();
  }
  if (architecture->parameters_size() > 0) {
    return architecture.Error(Message::kParametersFieldNumber,
                              "the architecture \"sequential\" has none", 0);
  }
  if (!architecture->has_input() || architecture->layers_size() == 0) {
    return architecture.Error(Message::kNameFieldNumber,
                              "the architecture \"sequential\" needs an input and layers");
  }

  models::SequentialSpec spec;
  const auto input = architecture.Inside(Message::kInputFieldNumber, architecture->input());
  spec.input_dims = SizesOf(input->dims());
  switch (input->has_data_type() ? input->data_type() : config::TYPE_FP32) {
    case config::TYPE_FP32:
      break;
    case config::TYPE_INT32:
      spec.input_type = models::SequentialSpec::InputType::kInt32;
      break;
    case config::TYPE_INT64:
      spec.input_type = models::SequentialSpec::InputType::kInt64;
      break;
    default:
      return input.Error(config::ModelLayersInput::kDataTypeFieldNumber,
                         absl::StrCat("expected TYPE_FP32, TYPE_INT32 or TYPE_INT64, got ",
                                      config::DataType_Name(input->data_type())));
  }
  for (int i = 0; i < architecture->layers_size(); ++i) {
    const ModelLayer& layer = architecture->layers(i);
    if (layer.layer_case() == ModelLayer::LAYER_NOT_SET) {
      return architecture.Error(
          Message::kLayersFieldNumber,
          absl::StrCat("layers[", i, "]: expected a layer, as in linear { out_features: 10 }"), i);
    }
    spec.layers.push_back({.layer = LayerOf(layer),
                           .name = layer.name(),
                           .line = architecture.Line(Message::kLayersFieldNumber, i)});
  }
  if (const auto shapes = models::CheckSequential(spec); !shapes.ok()) {
    return architecture.Error(std::string(shapes.status().message()));
  }
  out->sequential = std::move(spec);
  return absl::OkStatus();
}

}  // namespace sconce
