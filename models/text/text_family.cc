// How a text encoder is told from the names and shapes of its weights.
#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "models/families.h"
#include "models/text/encoder.h"

namespace sconce::models {
namespace {

constexpr absl::string_view kTextWords = "embeddings.word_embeddings.weight";
// Of every encoder that was published: what a head sees of a token.
constexpr int64_t kTextUsualHeadSize = 64;
// More is no encoder that anybody trained, and each costs a dozen modules.
constexpr int64_t kTextMostLayers = 1000;

std::vector<ParameterSpec> TextParameters(const TextKind& kind) {
  using Type = ParameterSpec::Type;
  std::vector<ParameterSpec> all = {
      {.name = "vocab_size", .meaning = "tokens there are"},
      {.name = "hidden_size", .meaning = "numbers that stand for a token"},
      {.name = "num_hidden_layers", .meaning = "layers"},
      {.name = "num_attention_heads", .meaning = "heads of the attention in each layer"},
      {.name = "intermediate_size", .meaning = "width inside a layer"},
      {.name = "max_position_embeddings", .meaning = "rows of the table of positions"},
      {.name = "hidden_act",
       .type = Type::kString,
       .default_value = "gelu",
       .meaning = "activation inside a layer",
       .choices = TextActivations()},
      {.name = "head",
       .type = Type::kString,
       .default_value = "none",
       .meaning = "what is made of the tokens",
       .choices = {"none", "sentence", "sequence_classification", "token_classification"}},
      {.name = "pooling",
       .type = Type::kString,
       .default_value = "mean",
       .meaning = "with head sentence: how tokens become one embedding",
       .choices = {"mean", "cls", "max"}},
      {.name = "normalize",
       .type = Type::kBool,
       .default_value = false,
       .meaning = "with head sentence: embeddings get length 1"},
      {.name = "num_labels",
       .default_value = int64_t{2},
       .meaning = "outputs of a classification head"},
      {.name = "prefix",
       .type = Type::kString,
       .default_value = "",
       .meaning = "what stands before the encoder's names, such as bert."}};
  if (kind.token_types) {
    all.push_back({.name = "type_vocab_size", .meaning = "types that a token may have"});
  }
  if (kind.layer_norm_eps_varies) {
    all.push_back({.name = "layer_norm_eps",
                   .type = Type::kDouble,
                   .default_value = kind.layer_norm_eps,
                   .meaning = "epsilon of the layer norms"});
  }
  if (kind.padding_id_varies) {
    all.push_back({.name = "pad_token_id",
                   .default_value = kind.padding_id,
                   .meaning = "token of the padding, from which positions are counted",
                   .minimum = 0});
  }
  if (kind.relative_bias) {
    all.push_back({.name = "relative_attention_num_buckets",
                   .default_value = int64_t{32},
                   .meaning = "distances that attention tells apart",
                   .minimum = 32});
  }
  if (kind.may_have_pooler) {
    all.push_back({.name = "pooler",
                   .type = Type::kBool,
                   .default_value = false,
                   .meaning = "whether there is a layer over the first token"});
  }
  return all;
}

// What stands before the encoder's names; nullopt: there is no table of words.
std::optional<std::string> TextPrefix(absl::Span<const NamedShape> state) {
  for (const NamedShape& tensor : state) {
    absl::string_view prefix = tensor.name;
    if (absl::ConsumeSuffix(&prefix, kTextWords) && (prefix.empty() || prefix.back() == '.')) {
      return std::string(prefix);
    }
  }
  return std::nullopt;
}

// Names that each end in a dot, or nothing.
bool IsTextPrefix(absl::string_view prefix) {
  return prefix.empty() ||
         (prefix.back() == '.' && !absl::StrContains(absl::StrCat(".", prefix), ".."));
}

// The encoder's tensors by their names without the prefix.
class TextShapes {
 public:
  TextShapes(absl::Span<const NamedShape> state, std::string prefix)
      : state_(state), prefix_(std::move(prefix)) {}

  const NamedShape* operator()(absl::string_view name) const {
    return Find(state_, absl::StrCat(prefix_, name));
  }

  // Null unless it is a matrix.
  const NamedShape* Matrix(absl::string_view name) const {
    const NamedShape* tensor = (*this)(name);
    return tensor != nullptr && tensor->shape.size() == 2 ? tensor : nullptr;
  }

 private:
  const absl::Span<const NamedShape> state_;
  const std::string prefix_;
};

// The head that the names tell, and its number of labels.
Parameters TextHead(const TextKind& kind, absl::Span<const NamedShape> state, bool pooler) {
  using Head = TextKind::SequenceHead;
  const NamedShape* projection = Find(state, "classifier.out_proj.weight");
  const NamedShape* classifier = Find(state, "classifier.weight");
  const bool sequence = kind.sequence_head == Head::kDense ? projection != nullptr
                        : kind.sequence_head == Head::kPreClassifier
                            ? Find(state, "pre_classifier.weight") != nullptr
                            : pooler;
  if (kind.sequence_head == Head::kDense && sequence) classifier = projection;
  if (classifier == nullptr || classifier->shape.size() != 2) return {};
  return {{"head", sequence ? "sequence_classification" : "token_classification"},
          {"num_labels", classifier->shape[0]}};
}

absl::Status TextError(const TextKind& kind, const std::string& message) {
  return absl::InvalidArgumentError(absl::StrCat("architecture ", kind.name, ": ", message));
}

std::string TextConfigLine(const TextKind& kind, absl::string_view key, absl::string_view value) {
  return absl::StrCat("architecture { name: \"", kind.name, "\" parameters { key: \"", key,
                      "\" value: \"", value, "\" } }");
}

}  // namespace

TextFamily::TextFamily(const TextKind& kind) : kind_(kind), parameters_(TextParameters(kind)) {}

absl::StatusOr<Inference> TextFamily::Infer(absl::Span<const NamedShape> state,
                                            const Parameters& configured) const {
  const std::optional<std::string> prefix = TextPrefix(state);
  if (!prefix) return absl::NotFoundError(absl::StrCat("no tensor is called ", kTextWords));
  const TextShapes shapes(state, *prefix);
  const std::string first = absl::StrCat(kind_.layers, "0.");
  const NamedShape* words = shapes.Matrix(kTextWords);
  const NamedShape* positions = shapes.Matrix("embeddings.position_embeddings.weight");
  const NamedShape* types = shapes.Matrix("embeddings.token_type_embeddings.weight");
  const NamedShape* query = shapes.Matrix(absl::StrCat(first, kind_.query, ".weight"));
  const NamedShape* up = shapes.Matrix(absl::StrCat(first, kind_.up, ".weight"));
  if (words == nullptr || positions == nullptr || query == nullptr || up == nullptr ||
      (kind_.token_types && types == nullptr)) {
    return absl::NotFoundError(absl::StrCat("no tables of words and positions, and layers with ",
                                            kind_.query, " and ", kind_.up));
  }

  const int64_t hidden = words->shape[1];
  Inference inference;
  Parameters& told = inference.parameters;
  told = {{"vocab_size", words->shape[0]},
          {"hidden_size", hidden},
          {"num_hidden_layers", CountBlocks(state, absl::StrCat(*prefix, kind_.layers))},
          {"intermediate_size", up->shape[0]},
          {"max_position_embeddings", positions->shape[0]}};
  if (!prefix->empty()) told["prefix"] = *prefix;
  if (kind_.token_types) told["type_vocab_size"] = types->shape[0];
  const bool pooler = kind_.may_have_pooler && shapes("pooler.dense.weight") != nullptr;
  if (kind_.may_have_pooler) told["pooler"] = pooler;
  if (!configured.contains("head")) {
    told.merge(TextHead(kind_, state, pooler));
  } else if (const Parameters head = TextHead(kind_, state, pooler); head.contains("num_labels")) {
    told["num_labels"] = head.at("num_labels");
  }

  std::vector<std::string> assumed;
  if (kind_.relative_bias) {
    const NamedShape* bias = shapes.Matrix("encoder.relative_attention_bias.weight");
    if (bias == nullptr) return absl::NotFoundError("no encoder.relative_attention_bias");
    told["relative_attention_num_buckets"] = bias->shape[0];
    told["num_attention_heads"] = bias->shape[1];
  } else if (!configured.contains("num_attention_heads")) {
    if (hidden % kTextUsualHeadSize != 0 || hidden == 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the file does not tell the number of attention heads. Keep the network's config.json "
          "beside it, or write into config.pbtxt, ",
          TextConfigLine(kind_, "num_attention_heads", "12")));
    }
    told["num_attention_heads"] = hidden / kTextUsualHeadSize;
    assumed.push_back(absl::StrCat("num_attention_heads ", hidden / kTextUsualHeadSize));
  }
  if (kind_.layer_norm_eps_varies && !configured.contains("layer_norm_eps")) {
    assumed.push_back(absl::StrCat("layer_norm_eps ", kind_.layer_norm_eps));
  }
  if (!configured.contains("hidden_act")) assumed.push_back("hidden_act gelu");
  if (kind_.padding_id_varies && !configured.contains("pad_token_id")) {
    assumed.push_back(absl::StrCat("pad_token_id ", kind_.padding_id));
  }
  if (!assumed.empty()) {
    inference.assumed =
        absl::StrCat("the file does not tell, and assumed is: ", absl::StrJoin(assumed, ", "),
                     "; a config.json beside it or config.pbtxt says otherwise");
  }

  // BERT and RoBERTa have the same names but for what a network with a head calls the encoder.
  // RoBERTa's tokens have one type, BERT's have two.
  if (kind_.token_types) {
    const bool roberta = absl::EndsWith(*prefix, "roberta.") ||
                         (!absl::EndsWith(*prefix, "bert.") && types->shape[0] == 1);
    if (roberta != kind_.positions_after_padding) {
      inference.contradiction =
          absl::StrCat("the encoder is called ", Quoted(*prefix), " and knows ", types->shape[0],
                       " types of tokens, which is ", roberta ? "RoBERTa's" : "BERT's", " way");
    }
  }
  return inference;
}

std::string TextFamily::NameOf(const std::string& saved) const {
  const auto of_head = [&](absl::string_view head) { return absl::StartsWith(saved, head); };
  if (std::any_of(kind_.unused_heads.begin(), kind_.unused_heads.end(), of_head)) return "";
  absl::string_view name = saved;
  if (absl::EndsWith(name, "embeddings.position_ids")) return "";
  if (absl::ConsumeSuffix(&name, "LayerNorm.gamma")) return absl::StrCat(name, "LayerNorm.weight");
  if (absl::ConsumeSuffix(&name, "LayerNorm.beta")) return absl::StrCat(name, "LayerNorm.bias");
  return saved;
}

absl::StatusOr<std::unique_ptr<Net>> TextFamily::Build(const Parameters& parameters) const {
  const auto number = [&](const char* name) { return Get<int64_t>(parameters, name); };
  const int64_t hidden = number("hidden_size"), heads = number("num_attention_heads");
  if (hidden % heads != 0) {
    return TextError(kind_, absl::StrCat("expected a hidden_size that num_attention_heads divides, "
                                         "got ",
                                         hidden, " and ", heads));
  }
  if (number("num_hidden_layers") > kTextMostLayers) {
    return TextError(kind_, absl::StrCat("num_hidden_layers: expected at most ", kTextMostLayers,
                                         ", got ", number("num_hidden_layers")));
  }
  if (!IsTextPrefix(Get<std::string>(parameters, "prefix"))) {
    return TextError(kind_, absl::StrCat("prefix: expected names that each end in a dot, got ",
                                         Quoted(Get<std::string>(parameters, "prefix"))));
  }
  if (TextPaddingId(kind_, parameters) >= number("vocab_size")) {
    return TextError(
        kind_, absl::StrCat("expected a token for the padding, ", TextPaddingId(kind_, parameters),
                            ", within a vocabulary of ", number("vocab_size")));
  }
  if (LongestText(kind_, parameters) < 1) {
    return TextError(kind_,
                     absl::StrCat("max_position_embeddings: ", number("max_position_embeddings"),
                                  " leave no position for a token"));
  }
  if (kind_.sequence_head == TextKind::SequenceHead::kPooler &&
      Get<std::string>(parameters, "head") == "sequence_classification" &&
      !Get<bool>(parameters, "pooler")) {
    return TextError(kind_, "head sequence_classification takes the pooler, which is not there");
  }
  return BuildTextNet(kind_, parameters);
}

}  // namespace sconce::models
