// TensorRules and RowRules: what a network wants of the tensors it is given and gives, beyond their
// dtype and dimensions. Value types; free of torch.

#ifndef SCONCE_MODELS_TENSOR_RULES_H_
#define SCONCE_MODELS_TENSOR_RULES_H_

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

namespace sconce::models {

// Both ends belong to it.
struct Range {
  int64_t minimum = 0;
  int64_t maximum = std::numeric_limits<int64_t>::max();

  bool Has(int64_t value) const { return minimum <= value && value <= maximum; }
  bool operator==(const Range&) const = default;
};

// A size that depends on others: `multiple` * n + `offset`, where one whole number n, not below 0,
// goes for all dimensions of a network's inputs with the same `tie`.
struct TiedSize {
  int32_t tie = -1;  // -1: the size depends on no other
  int64_t multiple = 1;
  int64_t offset = 0;

  bool operator==(const TiedSize&) const = default;
};

struct TensorRules {
  // The sizes that dimensions of -1 may have: a range for each dimension, -1 or not; empty: any.
  std::vector<Range> sizes = {};
  // Of an input that is not padded: one for each dimension; empty: no size depends on another.
  std::vector<TiedSize> ties = {};
  // Of an input of integers: the values that its elements may have.
  std::optional<Range> values = std::nullopt;
  // Of an input that a request may leave out, which the first one is not: what every element of it
  // then is. Its shape is that of the first input.
  std::optional<int64_t> absent = std::nullopt;
  // Requests whose dimensions of -1 differ share a batch. Of an input: the shorter ones are filled
  // up at the end with this. The first input has such dimensions and a padding, too, and they are
  // of the same sizes there, in order. Of an output: its dimensions of -1 are those of the first
  // input, in order, and are cut back to the request's own sizes; the value does not matter.
  std::optional<int64_t> padding = std::nullopt;

  bool operator==(const TensorRules&) const = default;
};

// What the elements of an input may be whose results nobody looks at: what they are where it is
// left out; else 0, or the nearest value that it may have.
inline int64_t FillerOf(const TensorRules& rules) {
  if (rules.absent.has_value()) return *rules.absent;
  if (!rules.values.has_value() || rules.values->Has(0)) return 0;
  return rules.values->minimum > 0 ? rules.values->minimum : rules.values->maximum;
}

struct RowRules {
  // False: tensors have no batch dimension, their `dims` are all they have, and each request is run
  // alone.
  bool batched = true;
  // How many rows the network takes at a time. A smaller batch is filled up with rows that
  // nobody looks at (FillerOf), a request of more is refused.
  Range rows = {.minimum = 1};

  bool operator==(const RowRules&) const = default;
};

}  // namespace sconce::models

#endif  // SCONCE_MODELS_TENSOR_RULES_H_
