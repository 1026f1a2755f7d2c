#include "models/sequential/sequential.h"

#include <ATen/ops/adaptive_avg_pool1d.h>
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/adaptive_max_pool1d.h>
#include <ATen/ops/adaptive_max_pool2d.h>
#include <ATen/ops/avg_pool1d.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/elu.h>
#include <ATen/ops/flatten.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/hardswish.h>
#include <ATen/ops/leaky_relu.h>
#include <ATen/ops/max_pool1d.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>

#include <functional>
#include <tuple>
#include <utility>
#include <vector>

#include "models/dense.h"
#include "models/foldable_norm.h"
#include "models/module_net.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

using LayerFunction = std::function<at::Tensor(const at::Tensor&)>;

// A value for each dimension.
Sizes Spread(const Sizes& sizes, int dimensions, const Sizes& absent) {
  const Sizes& given = sizes.empty() ? absent : sizes;
  return given.size() == 1 ? Sizes(static_cast<size_t>(dimensions), given[0]) : given;
}

template <int kDimensions, typename Module>
Module MakeConvolution(const ConvolutionLayer& layer, int64_t in) {
  const auto sizes = [&](const Sizes& given, const Sizes& absent) {
    return torch::ExpandingArray<kDimensions>(Spread(given, kDimensions, absent));
  };
  return Module(nn::ConvOptions<kDimensions>(in, layer.out_channels, sizes(layer.kernel_size, {}))
                    .stride(sizes(layer.stride, {1}))
                    .padding(sizes(layer.padding, {0}))
                    .dilation(sizes(layer.dilation, {1}))
                    .groups(layer.groups)
                    .bias(layer.bias));
}

// The state at the end of the last layer, both directions beside each other.
at::Tensor LastState(const at::Tensor& states, bool bidirectional) {
  if (!bidirectional) return states.select(0, -1);
  return at::cat({states.select(0, -2), states.select(0, -1)}, 1);
}

// Makes the module that holds a layer's tensors, where it has any, and what the layer does.
class LayerMaker {
 public:
  // `dims`: what the layer takes. `add` registers its module. `before`: the convolution that gives
  // it that, if it is one.
  LayerMaker(const std::vector<int64_t>& dims,
             const std::function<void(std::shared_ptr<nn::Module>)>& add, nn::Conv2d before)
      : dims_(dims), add_(add), before_(std::move(before)) {}

  LayerFunction operator()(const LinearLayer& layer) const {
    return Added(Dense(nn::LinearOptions(dims_.back(), layer.out_features).bias(layer.bias)));
  }

  LayerFunction operator()(const ConvolutionLayer& layer) const {
    if (layer.dimensions == 1) return Added(MakeConvolution<1, nn::Conv1d>(layer, dims_[0]));
    return Added(MakeConvolution<2, nn::Conv2d>(layer, dims_[0]));
  }

  LayerFunction operator()(const BatchNormLayer& layer) const {
    const auto options = nn::BatchNormOptions(dims_[0]).eps(layer.eps).affine(layer.affine);
    if (layer.dimensions == 1) return Added(nn::BatchNorm1d(options));
    if (!before_.is_empty()) return Added(FoldableNorm(options, before_));
    return Added(nn::BatchNorm2d(options));
  }

  LayerFunction operator()(const LayerNormLayer& layer) const {
    const std::vector<int64_t> shape(dims_.end() - layer.dimensions, dims_.end());
    return Added(
        nn::LayerNorm(nn::LayerNormOptions(shape).eps(layer.eps).elementwise_affine(layer.affine)));
  }

  LayerFunction operator()(const GroupNormLayer& layer) const {
    return Added(nn::GroupNorm(
        nn::GroupNormOptions(layer.groups, dims_[0]).eps(layer.eps).affine(layer.affine)));
  }

  LayerFunction operator()(const EmbeddingLayer& layer) const {
    return Added(nn::Embedding(layer.num_embeddings, layer.embedding_dim));
  }

  LayerFunction operator()(const RecurrentLayer& layer) const {
    const bool last = layer.output == RecurrentLayer::Output::kLast;
    const bool both = layer.bidirectional;
    if (layer.kind == RecurrentLayer::Kind::kLstm) {
      nn::LSTM lstm(nn::LSTMOptions(dims_[1], layer.hidden_size)
                        .num_layers(layer.num_layers)
                        .bias(layer.bias)
                        .bidirectional(both)
                        .batch_first(true));
      add_(lstm.ptr());
      return [lstm, last, both](const at::Tensor& x) mutable {
        const auto [sequence, states] = lstm->forward(x);
        return last ? LastState(std::get<0>(states), both) : sequence;
      };
    }
    nn::GRU gru(nn::GRUOptions(dims_[1], layer.hidden_size)
                    .num_layers(layer.num_layers)
                    .bias(layer.bias)
                    .bidirectional(both)
                    .batch_first(true));
    add_(gru.ptr());
    return [gru, last, both](const at::Tensor& x) mutable {
      const auto [sequence, states] = gru->forward(x);
      return last ? LastState(states, both) : sequence;
    };
  }

  LayerFunction operator()(const PoolLayer& layer) const {
    const int n = layer.dimensions;
    const Sizes kernel = Spread(layer.kernel_size, n, {});
    const Sizes stride = Spread(layer.stride, n, kernel), padding = Spread(layer.padding, n, {0});
    const Sizes dilation = Spread(layer.dilation, n, {1});
    const bool ceil_mode = layer.ceil_mode, count = layer.count_include_pad;
    if (layer.kind == PoolLayer::Kind::kMax) {
      if (n == 1) {
        return [=](const at::Tensor& x) {
          return at::max_pool1d(x, kernel, stride, padding, dilation, ceil_mode);
        };
      }
      return [=](const at::Tensor& x) {
        return at::max_pool2d(x, kernel, stride, padding, dilation, ceil_mode);
      };
    }
    if (n == 1) {
      return [=](const at::Tensor& x) {
        return at::avg_pool1d(x, kernel, stride, padding, ceil_mode, count);
      };
    }
    return [=](const at::Tensor& x) {
      return at::avg_pool2d(x, kernel, stride, padding, ceil_mode, count);
    };
  }

  LayerFunction operator()(const AdaptivePoolLayer& layer) const {
    const Sizes size = Spread(layer.output_size, layer.dimensions, {});
    if (layer.kind == PoolLayer::Kind::kMax) {
      if (layer.dimensions == 1) {
        return [=](const at::Tensor& x) { return std::get<0>(at::adaptive_max_pool1d(x, size)); };
      }
      return [=](const at::Tensor& x) { return std::get<0>(at::adaptive_max_pool2d(x, size)); };
    }
    if (layer.dimensions == 1) {
      return [=](const at::Tensor& x) { return at::adaptive_avg_pool1d(x, size); };
    }
    return [=](const at::Tensor& x) { return at::adaptive_avg_pool2d(x, size); };
  }

  LayerFunction operator()(const ActivationLayer& layer) const {
    using Kind = ActivationLayer::Kind;
    switch (layer.kind) {
      case Kind::kRelu:
        return [](const at::Tensor& x) { return at::relu(x); };
      case Kind::kLeakyRelu:
        return [slope = layer.slope](const at::Tensor& x) { return at::leaky_relu(x, slope); };
      case Kind::kElu:
        return [alpha = layer.slope](const at::Tensor& x) { return at::elu(x, alpha); };
      case Kind::kGelu:
        return [](const at::Tensor& x) { return at::gelu(x); };
      case Kind::kGeluTanh:
        return [](const at::Tensor& x) { return at::gelu(x, "tanh"); };
      case Kind::kSilu:
        return [](const at::Tensor& x) { return at::silu(x); };
      case Kind::kTanh:
        return [](const at::Tensor& x) { return at::tanh(x); };
      case Kind::kSigmoid:
        return [](const at::Tensor& x) { return at::sigmoid(x); };
      case Kind::kHardswish:
        return [](const at::Tensor& x) { return at::hardswish(x); };
      case Kind::kSoftmax:
        return [dim = layer.dim < 0 ? layer.dim : layer.dim + 1](const at::Tensor& x) {
          return at::softmax(x, dim);
        };
    }
    TORCH_CHECK(false, "no such activation");
  }

  LayerFunction operator()(const FlattenLayer&) const {
    return [](const at::Tensor& x) { return at::flatten(x, 1); };
  }

  LayerFunction operator()(const DropoutLayer&) const {
    return [](const at::Tensor& x) { return x; };
  }

  LayerFunction operator()(const PermuteLayer& layer) const {
    std::vector<int64_t> dims = {0};
    for (const int64_t dim : layer.dims) dims.push_back(dim + 1);
    return [dims](const at::Tensor& x) { return x.permute(dims); };
  }

  LayerFunction operator()(const LastStepLayer&) const {
    return [](const at::Tensor& x) { return x.select(1, -1); };
  }

 private:
  template <typename Module>
  LayerFunction Added(Module module) const {
    add_(module.ptr());
    return [module](const at::Tensor& x) mutable { return module->forward(x); };
  }

  const std::vector<int64_t>& dims_;
  const std::function<void(std::shared_ptr<nn::Module>)>& add_;
  const nn::Conv2d before_;
};

class SequentialModule final : public nn::Module {
 public:
  SequentialModule(const SequentialSpec& spec, const SequentialShapes& shapes) {
    std::shared_ptr<nn::Module> before;
    for (size_t i = 0; i < spec.layers.size(); ++i) {
      std::shared_ptr<nn::Module> made;
      const std::function<void(std::shared_ptr<nn::Module>)> add =
          [&, name = ModuleName(spec, i)](const std::shared_ptr<nn::Module>& module) {
            RegisterNested(*this, name, module);
            made = module;
          };
      const nn::Conv2d convolution(std::dynamic_pointer_cast<nn::Conv2dImpl>(before));
      layers_.push_back(
          std::visit(LayerMaker(shapes.dims[i], add, convolution), spec.layers[i].layer));
      before = made;
    }
  }

  at::Tensor forward(at::Tensor x) const {
    for (const LayerFunction& layer : layers_) x = layer(x);
    return x;
  }

 private:
  std::vector<LayerFunction> layers_;
};

c10::ScalarType InputDtype(SequentialSpec::InputType type) {
  switch (type) {
    case SequentialSpec::InputType::kInt32:
      return c10::kInt;
    case SequentialSpec::InputType::kInt64:
      return c10::kLong;
    case SequentialSpec::InputType::kFp32:
      break;
  }
  return c10::kFloat;
}

class SequentialArchitecture final : public Architecture {
 public:
  SequentialArchitecture(SequentialSpec spec, SequentialShapes shapes)
      : spec_(std::move(spec)), shapes_(std::move(shapes)) {}

  absl::string_view name() const override { return "sequential"; }
  absl::string_view family() const override { return "sequential"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> /*state*/,
                                  const Parameters& /*configured*/) const override {
    return Inference{};
  }

  absl::StatusOr<std::unique_ptr<Net>> Create(const Parameters& parameters) const override {
    const absl::StatusOr<Parameters> complete = CompleteParameters(*this, parameters);
    if (!complete.ok()) return complete.status();
    Signature signature;
    signature.inputs = {{spec_.input_name, InputDtype(spec_.input_type), shapes_.dims.front(),
                         shapes_.input_rules}};
    signature.outputs = {{spec_.output_name, c10::kFloat, shapes_.dims.back()}};
    return BuildModuleNet<SequentialModule>(name(), "Sequential", std::move(signature), spec_,
                                            shapes_);
  }

 private:
  const SequentialSpec spec_;
  const SequentialShapes shapes_;
  const std::vector<ParameterSpec> parameters_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Architecture>> MakeSequential(const SequentialSpec& spec) {
  absl::StatusOr<SequentialShapes> shapes = CheckSequential(spec);
  if (!shapes.ok()) return shapes.status();
  return std::make_shared<const SequentialArchitecture>(spec, *std::move(shapes));
}

}  // namespace sconce::models
