#include "bench/gpu/bert_net.h"

#include <ATen/ops/gelu.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/tanh.h>

#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "models/module_net.h"
#include "models/skip_init.h"

namespace sconce::bench {
namespace {

namespace nn = torch::nn;

class Layer : public nn::Module {
 public:
  explicit Layer(const BertShape& shape) : heads_(shape.heads) {
    qkv_ = register_module("qkv", nn::Linear(shape.width, 3 * shape.width));
    out_ = register_module("out", nn::Linear(shape.width, shape.width));
    attention_norm_ =
        register_module("attention_norm", nn::LayerNorm(nn::LayerNormOptions({shape.width})));
    up_ = register_module("up", nn::Linear(shape.width, 4 * shape.width));
    down_ = register_module("down", nn::Linear(4 * shape.width, shape.width));
    norm_ = register_module("norm", nn::LayerNorm(nn::LayerNormOptions({shape.width})));
  }

  at::Tensor forward(const at::Tensor& x) {
    const int64_t rows = x.size(0), tokens = x.size(1), width = x.size(2);
    const auto parts = qkv_(x).view({rows, tokens, 3, heads_, width / heads_}).unbind(2);
    const at::Tensor mixed = at::scaled_dot_product_attention(
        parts[0].transpose(1, 2), parts[1].transpose(1, 2), parts[2].transpose(1, 2));
    const at::Tensor attended =
        attention_norm_(x + out_(mixed.transpose(1, 2).reshape({rows, tokens, width})));
    return norm_(attended + down_(at::gelu(up_(attended))));
  }

 private:
  const int64_t heads_;
  nn::Linear qkv_ = nullptr, out_ = nullptr, up_ = nullptr, down_ = nullptr;
  nn::LayerNorm attention_norm_ = nullptr, norm_ = nullptr;
};

class BertModule : public nn::Module {
 public:
  explicit BertModule(const BertShape& shape) {
    words_ = register_module("words", nn::Embedding(shape.vocabulary, shape.width));
    positions_ = register_parameter("positions", torch::empty({shape.tokens, shape.width}));
    norm_ = register_module("norm", nn::LayerNorm(nn::LayerNormOptions({shape.width})));
    for (int64_t i = 0; i < shape.layers; ++i) {
      layers_.push_back(
          register_module("layer" + std::to_string(i), std::make_shared<Layer>(shape)));
    }
    pooler_ = register_module("pooler", nn::Linear(shape.width, shape.width));
  }

  at::Tensor forward(const at::Tensor& tokens) {
    at::Tensor x = norm_(words_(tokens) + positions_);
    for (const auto& layer : layers_) x = layer->forward(x);
    return at::tanh(pooler_(x.select(1, 0)));
  }

 private:
  nn::Embedding words_ = nullptr;
  at::Tensor positions_;
  nn::LayerNorm norm_ = nullptr;
  std::vector<std::shared_ptr<Layer>> layers_;
  nn::Linear pooler_ = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<models::Net>> MakeBertNet(const BertShape& shape) {
  try {
    std::shared_ptr<BertModule> module;
    {
      models::SkipInit skip_init;
      module = std::make_shared<BertModule>(shape);
    }
    models::Signature signature;
    signature.inputs = {{"tokens", at::kLong, {shape.tokens}}};
    signature.outputs = {{"pooled", at::kFloat, {shape.width}}};
    auto forward = [raw = module.get()](const std::vector<at::Tensor>& inputs) {
      return std::vector<at::Tensor>{raw->forward(inputs.at(0))};
    };
    return std::make_unique<models::ModuleNet>("Bert", std::move(signature), std::move(module),
                                               std::move(forward));
  } catch (const std::exception& e) {
    return absl::InternalError(e.what());
  }
}

}  // namespace sconce::bench
