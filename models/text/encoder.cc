// The network itself: what transformers computes with attention as
// scaled_dot_product_attention, operator by operator.
#include "models/text/encoder.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/log.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/take.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/dense.h"
#include "models/module_net.h"

namespace sconce::models {
namespace {

namespace nn = torch::nn;

// transformers computes MPNet's buckets with these whatever its configuration says.
constexpr int64_t kTextBuckets = 32;
constexpr double kTextMaxDistance = 128;

using TextActivation = at::Tensor (*)(const at::Tensor&);

struct NamedTextActivation {
  const char* name;
  TextActivation function;
};

constexpr NamedTextActivation kTextActivations[] = {
    {"gelu", [](const at::Tensor& x) { return at::gelu(x); }},
    // The tanh approximation, as separate operators.
    {"gelu_new",
     [](const at::Tensor& x) {
       return 0.5 * x * (1.0 + at::tanh(std::sqrt(2.0 / M_PI) * (x + 0.044715 * at::pow(x, 3.0))));
     }},
    {"gelu_pytorch_tanh", [](const at::Tensor& x) { return at::gelu(x, "tanh"); }},
    {"relu", [](const at::Tensor& x) { return at::relu(x); }},
    {"silu", [](const at::Tensor& x) { return at::silu(x); }},
};

TextActivation FindTextActivation(const std::string& name) {
  for (const NamedTextActivation& activation : kTextActivations) {
    if (name == activation.name) return activation.function;
  }
  TORCH_CHECK(false, "hidden_act: no activation is called ", name);
}

nn::LayerNorm TextNorm(int64_t size, double eps) {
  return nn::LayerNorm(nn::LayerNormOptions({size}).eps(eps));
}

double LowestOf(at::ScalarType dtype) {
  double lowest = 0;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dtype, "LowestOf", [&] {
    lowest = static_cast<double>(std::numeric_limits<scalar_t>::lowest());
  });
  return lowest;
}

// 0 where `mask` is 1, the lowest number where it is 0; for [batch, 1, queries, keys].
at::Tensor AdditiveMask(const at::Tensor& mask, at::ScalarType dtype) {
  const at::Tensor inverted = 1.0 - mask.unsqueeze(1).unsqueeze(1).to(dtype);
  return inverted.masked_fill(inverted.to(at::kBool), LowestOf(dtype))
      .expand({mask.size(0), 1, mask.size(1), mask.size(1)});
}

class TextLayer final : public nn::Module {
 public:
  TextLayer(const TextKind& kind, const Parameters& parameters)
      : heads_(Get<int64_t>(parameters, "num_attention_heads")),
        relative_bias_(kind.relative_bias),
        activation_(FindTextActivation(Get<std::string>(parameters, "hidden_act"))) {
    const int64_t hidden = Get<int64_t>(parameters, "hidden_size");
    const int64_t intermediate = Get<int64_t>(parameters, "intermediate_size");
    const double eps = kind.layer_norm_eps_varies ? Get<double>(parameters, "layer_norm_eps")
                                                  : kind.layer_norm_eps;
    query_ = RegisterNested(*this, kind.query, Dense(hidden, hidden));
    key_ = RegisterNested(*this, kind.key, Dense(hidden, hidden));
    value_ = RegisterNested(*this, kind.value, Dense(hidden, hidden));
    attention_output_ = RegisterNested(*this, kind.attention_output, Dense(hidden, hidden));
    attention_norm_ = RegisterNested(*this, kind.attention_norm, TextNorm(hidden, eps));
    up_ = RegisterNested(*this, kind.up, Dense(hidden, intermediate));
    down_ = RegisterNested(*this, kind.down, Dense(intermediate, hidden));
    output_norm_ = RegisterNested(*this, kind.output_norm, TextNorm(hidden, eps));
  }

  at::Tensor forward(const at::Tensor& x, const at::Tensor& mask, const at::Tensor& bias) {
    const at::Tensor attended =
        attention_norm_->forward(attention_output_->forward(Attention(x, mask, bias)) + x);
    return output_norm_->forward(down_->forward(activation_(up_->forward(attended))) + attended);
  }

 private:
  at::Tensor Heads(Dense& linear, const at::Tensor& x) const {
    return linear->forward(x)
        .view({x.size(0), x.size(1), heads_, x.size(2) / heads_})
        .transpose(1, 2);
  }

  at::Tensor Attention(const at::Tensor& x, const at::Tensor& mask, const at::Tensor& bias) {
    const at::Tensor query = Heads(query_, x), key = Heads(key_, x), value = Heads(value_, x);
    at::Tensor context;
    if (relative_bias_) {
      at::Tensor scores = at::matmul(query, key.transpose(-1, -2));
      scores = scores / std::sqrt(static_cast<double>(x.size(2) / heads_));
      scores += bias;
      scores = scores + mask;
      context = at::matmul(at::softmax(scores, -1), value);
    } else {
      context = at::scaled_dot_product_attention(query, key, value, mask);
    }
    return context.transpose(1, 2).reshape(x.sizes());
  }

  const int64_t heads_;
  const bool relative_bias_;
  const TextActivation activation_;
  Dense query_{nullptr}, key_{nullptr}, value_{nullptr}, attention_output_{nullptr};
  Dense up_{nullptr}, down_{nullptr};
  nn::LayerNorm attention_norm_{nullptr}, output_norm_{nullptr};
};

class TextModule final : public nn::Module {
 public:
  TextModule(const TextKind& kind, const Parameters& parameters)
      : kind_(kind),
        head_(Get<std::string>(parameters, "head")),
        pooling_(Get<std::string>(parameters, "pooling")),
        normalize_(Get<bool>(parameters, "normalize")),
        padding_id_(TextPaddingId(kind, parameters)) {
    const int64_t hidden = Get<int64_t>(parameters, "hidden_size");
    const int64_t positions = Get<int64_t>(parameters, "max_position_embeddings");
    const int64_t labels = Get<int64_t>(parameters, "num_labels");
    const double eps = kind.layer_norm_eps_varies ? Get<double>(parameters, "layer_norm_eps")
                                                  : kind.layer_norm_eps;
    const std::string prefix = Get<std::string>(parameters, "prefix");
    const auto encoder = [&](absl::string_view name) { return absl::StrCat(prefix, name); };

    words_ = RegisterNested(*this, encoder("embeddings.word_embeddings"),
                            nn::Embedding(Get<int64_t>(parameters, "vocab_size"), hidden));
    positions_ = RegisterNested(*this, encoder("embeddings.position_embeddings"),
                                nn::Embedding(positions, hidden));
    if (kind.token_types) {
      types_ = RegisterNested(*this, encoder("embeddings.token_type_embeddings"),
                              nn::Embedding(Get<int64_t>(parameters, "type_vocab_size"), hidden));
    }
    norm_ = RegisterNested(*this, encoder("embeddings.LayerNorm"), TextNorm(hidden, eps));
    for (int64_t i = 0; i < Get<int64_t>(parameters, "num_hidden_layers"); ++i) {
      layers_.push_back(RegisterNested(*this, encoder(absl::StrCat(kind.layers, i)),
                                       std::make_shared<TextLayer>(kind, parameters)));
    }
    if (kind.relative_bias) {
      bias_ =
          RegisterNested(*this, encoder("encoder.relative_attention_bias"),
                         nn::Embedding(Get<int64_t>(parameters, "relative_attention_num_buckets"),
                                       Get<int64_t>(parameters, "num_attention_heads")));
    }
    if (kind.may_have_pooler && Get<bool>(parameters, "pooler")) {
      pooler_ = RegisterNested(*this, encoder("pooler.dense"), Dense(hidden, hidden));
    }
    const bool sequence = head_ == "sequence_classification";
    if (sequence && kind.sequence_head == TextKind::SequenceHead::kDense) {
      before_ = RegisterNested(*this, "classifier.dense", Dense(hidden, hidden));
      classifier_ = RegisterNested(*this, "classifier.out_proj", Dense(hidden, labels));
    } else if (sequence || head_ == "token_classification") {
      if (sequence && kind.sequence_head == TextKind::SequenceHead::kPreClassifier) {
        before_ = register_module("pre_classifier", Dense(hidden, hidden));
      }
      classifier_ = register_module("classifier", Dense(hidden, labels));
    }
  }

  // Eval comes here. Distances become buckets as in transformers, on the CPU.
  void train(bool on) override {
    nn::Module::train(on);
    if (bias_.is_empty()) return;
    const int64_t longest = positions_->weight.size(0);
    buckets_ = Buckets(at::arange(1 - longest, longest, at::kLong)).to(bias_->weight.device());
  }

  std::vector<at::Tensor> forward(const std::vector<at::Tensor>& inputs) {
    const at::Tensor &ids = inputs[0], &mask = inputs[1];
    at::Tensor x = words_->forward(ids);
    if (!types_.is_empty()) {
      // Where there is one type alone, requests do not give it.
      x = x + (inputs.size() > 2 ? types_->forward(inputs[2]) : types_->weight);
    }
    const at::Tensor positions = Positions(ids);
    x = types_.is_empty() ? x + positions : x.add_(positions);
    x = norm_->forward(x);
    const at::Tensor additive = AdditiveMask(mask, x.scalar_type());
    const at::Tensor bias = bias_.is_empty() ? at::Tensor() : PositionBias(ids);
    for (const std::shared_ptr<TextLayer>& layer : layers_) x = layer->forward(x, additive, bias);
    return Head(x, mask);
  }

 private:
  at::Tensor Positions(const at::Tensor& ids) {
    if (!kind_.positions_after_padding) {
      return positions_->weight.slice(0, 0, ids.size(1)).unsqueeze(0);
    }
    const at::Tensor counted = ids.ne(padding_id_).to(at::kInt);
    const at::Tensor numbers = at::cumsum(counted, 1).to(at::kInt) * counted;
    return positions_->forward(numbers.to(at::kLong) + padding_id_);
  }

  // The bucket of a key's position minus the query's.
  static at::Tensor Buckets(const at::Tensor& relative) {
    constexpr int64_t kHalf = kTextBuckets / 2, kExact = kHalf / 2;
    const at::Tensor before = -relative;
    const at::Tensor distance = at::abs(before);
    at::Tensor large = kExact + (at::log(distance.to(at::kFloat) / kExact) /
                                 std::log(kTextMaxDistance / kExact) * (kHalf - kExact))
                                    .to(at::kLong);
    large = at::minimum(large, at::full_like(large, kHalf - 1));
    return (before < 0).to(at::kLong) * kHalf + at::where(distance < kExact, distance, large);
  }

  at::Tensor PositionBias(const at::Tensor& ids) {
    const int64_t length = ids.size(1);
    const at::Tensor position = at::arange(length, ids.options());
    const at::Tensor relative = position.unsqueeze(0) - position.unsqueeze(1);
    const at::Tensor values =
        bias_->forward(at::take(buckets_, relative + (positions_->weight.size(0) - 1)));
    return values.permute({2, 0, 1}).unsqueeze(0).expand({ids.size(0), -1, length, length});
  }

  at::Tensor Pooled(const at::Tensor& x) { return at::tanh(pooler_->forward(x.select(1, 0))); }

  std::vector<at::Tensor> Head(const at::Tensor& x, const at::Tensor& mask) {
    if (head_ == "sentence") return {Sentence(x, mask)};
    if (head_ == "token_classification") return {classifier_->forward(x)};
    if (head_ == "sequence_classification") {
      switch (kind_.sequence_head) {
        case TextKind::SequenceHead::kPooler:
          return {classifier_->forward(Pooled(x))};
        case TextKind::SequenceHead::kPreClassifier:
          return {classifier_->forward(at::relu(before_->forward(x.select(1, 0))))};
        case TextKind::SequenceHead::kDense:
          return {classifier_->forward(at::tanh(before_->forward(x.select(1, 0))))};
      }
    }
    if (pooler_.is_empty()) return {x};
    return {x, Pooled(x)};
  }

  // As sentence-transformers has it.
  at::Tensor Sentence(const at::Tensor& x, const at::Tensor& mask) {
    at::Tensor sentence;
    if (pooling_ == "cls") {
      sentence = x.select(1, 0);
    } else if (pooling_ == "max") {
      const double masked = std::max(-1e9, LowestOf(x.scalar_type()));
      sentence = x.masked_fill(mask.unsqueeze(-1).eq(0), masked).amax(1);
    } else {
      const at::Tensor weights = mask.unsqueeze(-1).expand(x.sizes()).to(x.dtype());
      sentence = (x * weights).sum(1) / weights.sum(1).clamp_min(1e-9);
    }
    if (!normalize_) return sentence;
    return sentence /
           at::linalg_vector_norm(sentence, 2, {1}, true).clamp_min(1e-12).expand_as(sentence);
  }

  const TextKind kind_;
  const std::string head_, pooling_;
  const bool normalize_;
  const int64_t padding_id_;
  nn::Embedding words_{nullptr}, positions_{nullptr}, types_{nullptr}, bias_{nullptr};
  nn::LayerNorm norm_{nullptr};
  std::vector<std::shared_ptr<TextLayer>> layers_;
  Dense pooler_{nullptr}, before_{nullptr}, classifier_{nullptr};
  // Of each distance from 1 - max_position_embeddings on; made when the net is made ready.
  at::Tensor buckets_;
};

TensorSpec TextInput(std::string name, int64_t longest, Range values, int64_t padding,
                     std::optional<int64_t> absent) {
  return {std::move(name),
          c10::kLong,
          {-1},
          {.sizes = {{1, longest}}, .values = values, .absent = absent, .padding = padding}};
}

Signature TextSignature(const TextKind& kind, const Parameters& parameters) {
  const int64_t longest = LongestText(kind, parameters);
  const int64_t hidden = Get<int64_t>(parameters, "hidden_size");
  Signature signature;
  signature.inputs = {
      TextInput("input_ids", longest, {0, Get<int64_t>(parameters, "vocab_size") - 1},
                TextPaddingId(kind, parameters), std::nullopt),
      TextInput("attention_mask", longest, {0, 1}, 0, 1)};
  if (kind.token_types && Get<int64_t>(parameters, "type_vocab_size") > 1) {
    signature.inputs.push_back(TextInput(
        "token_type_ids", longest, {0, Get<int64_t>(parameters, "type_vocab_size") - 1}, 0, 0));
  }

  const std::string& head = Get<std::string>(parameters, "head");
  const int64_t labels = Get<int64_t>(parameters, "num_labels");
  const auto per_token = [](std::string name, int64_t size) {
    return TensorSpec{std::move(name), c10::kFloat, {-1, size}, {.padding = 0}};
  };
  if (head == "sentence") {
    signature.outputs = {{"sentence_embedding", c10::kFloat, {hidden}}};
  } else if (head == "sequence_classification") {
    signature.outputs = {{"logits", c10::kFloat, {labels}}};
  } else if (head == "token_classification") {
    signature.outputs = {per_token("logits", labels)};
  } else {
    signature.outputs = {per_token("last_hidden_state", hidden)};
    if (kind.may_have_pooler && Get<bool>(parameters, "pooler")) {
      signature.outputs.push_back({"pooler_output", c10::kFloat, {hidden}});
    }
  }
  return signature;
}

std::string TextClassName(const TextKind& kind, const std::string& head) {
  return absl::StrCat(kind.prefix, head == "sequence_classification" ? "ForSequenceClassification"
                                   : head == "token_classification"  ? "ForTokenClassification"
                                                                     : "Model");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Net>> BuildTextNet(const TextKind& kind,
                                                  const Parameters& parameters) {
  return BuildModuleNet<TextModule>(kind.name,
                                    TextClassName(kind, Get<std::string>(parameters, "head")),
                                    TextSignature(kind, parameters), kind, parameters);
}

int64_t TextPaddingId(const TextKind& kind, const Parameters& parameters) {
  return kind.padding_id_varies ? Get<int64_t>(parameters, "pad_token_id") : kind.padding_id;
}

int64_t LongestText(const TextKind& kind, const Parameters& parameters) {
  const int64_t positions = Get<int64_t>(parameters, "max_position_embeddings");
  return kind.positions_after_padding ? positions - TextPaddingId(kind, parameters) - 1 : positions;
}

const std::vector<std::string>& TextActivations() {
  static const auto* const names = [] {
    auto* const all = new std::vector<std::string>;
    for (const NamedTextActivation& activation : kTextActivations) all->push_back(activation.name);
    return all;
  }();
  return *names;
}

}  // namespace sconce::models
