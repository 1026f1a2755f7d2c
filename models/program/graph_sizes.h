// The sizes of a program's inputs: what its signature says of them, and the check of those that
// came. A size may be any arithmetic on symbols; a signature says of it what is linear in one
// symbol ("twice the length of the first input"), the check does the rest.
#ifndef SCONCE_MODELS_PROGRAM_GRAPH_SIZES_H_
#define SCONCE_MODELS_PROGRAM_GRAPH_SIZES_H_

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/net.h"
#include "models/program/graph.h"

namespace sconce::models {

// Dimension 0 is the batch where all inputs and outputs have the same symbol or the same number
// there, and the symbol nowhere else.
Signature SignatureOf(const Graph& graph);

// Immutable; thread-safe. REQUIRES: `graph` outlives it.
class SizeCheck {
 public:
  // InvalidArgument where a size names a symbol that is not there; Unimplemented where no input
  // tells what a symbol is.
  static absl::StatusOr<SizeCheck> Make(const Graph& graph);

  // Dtypes, shapes and ranges. Throws InvalidInput naming the input, the dimension, what was
  // expected and what came. REQUIRES: as many as the graph's inputs.
  void Check(const std::vector<at::Tensor>& inputs) const;

 private:
  // Where a symbol's value is read from: sizes[dimension] == size.multiple * value + size.offset.
  struct Source {
    size_t input = 0;
    size_t dimension = 0;
    TiedSize size = {};
  };

  explicit SizeCheck(const Graph& graph) : graph_(&graph) {}

  absl::Status FindSources();
  int64_t ValueOf(const Source& source, const Range& range, int64_t size) const;

  const Graph* graph_;
  std::vector<std::optional<Source>> sources_;  // by symbol; none: no input has it
};

// The value of a size. Throws c10::Error on overflow and division by zero.
// REQUIRES: no part of it is kUnknown, and `symbols` has all that it names.
int64_t Evaluate(const SizeExpression& size, const std::vector<int64_t>& symbols);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_PROGRAM_GRAPH_SIZES_H_
