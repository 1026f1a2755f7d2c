// What differs between the text encoders of Hugging Face transformers.
#include "models/families.h"

#include "models/text/encoder.h"

namespace sconce::models {
namespace {

// BERT's names, which RoBERTa has too.
TextKind TextKindOfBert() {
  return {.name = "bert",
          .prefix = "Bert",
          .module = "bert.",
          .layers = "encoder.layer.",
          .query = "attention.self.query",
          .key = "attention.self.key",
          .value = "attention.self.value",
          .attention_output = "attention.output.dense",
          .attention_norm = "attention.output.LayerNorm",
          .up = "intermediate.dense",
          .down = "output.dense",
          .output_norm = "output.LayerNorm",
          .token_types = true,
          .unused_heads = {"cls."}};
}

TextKind TextKindOfRoberta() {
  TextKind kind = TextKindOfBert();
  kind.name = "roberta";
  kind.prefix = "Roberta";
  kind.module = "roberta.";
  kind.sequence_head = TextKind::SequenceHead::kDense;
  kind.positions_after_padding = true;
  kind.padding_id_varies = true;
  kind.padding_id = 1;
  kind.layer_norm_eps = 1e-5;
  kind.unused_heads = {"lm_head."};
  return kind;
}

TextKind TextKindOfDistilBert() {
  return {.name = "distilbert",
          .prefix = "DistilBert",
          .module = "distilbert.",
          .layers = "transformer.layer.",
          .query = "attention.q_lin",
          .key = "attention.k_lin",
          .value = "attention.v_lin",
          .attention_output = "attention.out_lin",
          .attention_norm = "sa_layer_norm",
          .up = "ffn.lin1",
          .down = "ffn.lin2",
          .output_norm = "output_layer_norm",
          .sequence_head = TextKind::SequenceHead::kPreClassifier,
          .may_have_pooler = false,
          .layer_norm_eps_varies = false,
          .unused_heads = {"vocab_transform.", "vocab_layer_norm.", "vocab_projector."}};
}

TextKind TextKindOfMpnet() {
  return {.name = "mpnet",
          .prefix = "MPNet",
          .module = "mpnet.",
          .layers = "encoder.layer.",
          .query = "attention.attn.q",
          .key = "attention.attn.k",
          .value = "attention.attn.v",
          .attention_output = "attention.attn.o",
          .attention_norm = "attention.LayerNorm",
          .up = "intermediate.dense",
          .down = "output.dense",
          .output_norm = "output.LayerNorm",
          .sequence_head = TextKind::SequenceHead::kDense,
          .positions_after_padding = true,
          .padding_id = 1,
          .relative_bias = true,
          .layer_norm_eps = 1e-5,
          .unused_heads = {"lm_head."}};
}

}  // namespace

const Family& Bert() {
  static const auto* const family = new TextFamily(TextKindOfBert());
  return *family;
}

const Family& Roberta() {
  static const auto* const family = new TextFamily(TextKindOfRoberta());
  return *family;
}

const Family& DistilBert() {
  static const auto* const family = new TextFamily(TextKindOfDistilBert());
  return *family;
}

const Family& Mpnet() {
  static const auto* const family = new TextFamily(TextKindOfMpnet());
  return *family;
}

}  // namespace sconce::models
