// TextEncoder: the network that BERT, DistilBERT, RoBERTa and MPNet share, in Hugging Face
// transformers' arithmetic; and the Family that is made of one of their spellings.
//
// A TextKind says what differs between them. Those of the families live as long as the process.
#ifndef SCONCE_MODELS_TEXT_ENCODER_H_
#define SCONCE_MODELS_TEXT_ENCODER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/family.h"

namespace sconce::models {

struct TextKind {
  // What follows the encoder where it classifies whole sequences.
  enum class SequenceHead {
    kPooler,         // classifier(pooler)
    kPreClassifier,  // classifier(relu(pre_classifier(first token)))
    kDense,          // classifier.out_proj(tanh(classifier.dense(first token)))
  };

  absl::string_view name;    // "bert"
  absl::string_view prefix;  // "Bert", as in BertModel
  // What stands before the encoder's names in a network with a head.
  absl::string_view module;  // "bert."

  // Names inside a layer.
  absl::string_view layers;  // "encoder.layer."
  absl::string_view query, key, value, attention_output, attention_norm;
  absl::string_view up, down, output_norm;

  SequenceHead sequence_head = SequenceHead::kPooler;
  // Whether tokens have types, and a table of them is in the weights.
  bool token_types = false;
  // Positions count the tokens that are not padding, from the padding's id + 1 on.
  bool positions_after_padding = false;
  // Whether the padding's id is a setting; else it is `padding_id`.
  bool padding_id_varies = false;
  int64_t padding_id = 0;
  // Attention has a bias by the tokens' distance, in buckets.
  bool relative_bias = false;
  bool may_have_pooler = true;
  // Layer norm's epsilon, where the configuration does not say; and whether it may.
  double layer_norm_eps = 1e-12;
  bool layer_norm_eps_varies = true;
  // What names of tensors begin with that belong to heads for training, which are not served.
  std::vector<absl::string_view> unused_heads;
};

class TextFamily final : public Family {
 public:
  explicit TextFamily(const TextKind& kind);

  absl::string_view name() const override { return kind_.name; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }
  const std::vector<Variant>& variants() const override { return variants_; }
  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> state,
                                  const Parameters& configured) const override;
  std::string NameOf(const std::string& saved) const override;
  absl::StatusOr<std::unique_ptr<Net>> Build(const Parameters& parameters) const override;

 private:
  const TextKind kind_;
  const std::vector<ParameterSpec> parameters_;
  const std::vector<Variant> variants_;
};

// The network and its signature. REQUIRES: `parameters` are complete and go together.
absl::StatusOr<std::unique_ptr<Net>> BuildTextNet(const TextKind& kind,
                                                  const Parameters& parameters);

// The longest sequence that the network of these parameters takes.
int64_t LongestText(const TextKind& kind, const Parameters& parameters);

// What is added to a position for the tokens before the first one.
int64_t TextPaddingId(const TextKind& kind, const Parameters& parameters);

// The activations that hidden_act may name.
const std::vector<std::string>& TextActivations();

}  // namespace sconce::models

#endif  // SCONCE_MODELS_TEXT_ENCODER_H_
