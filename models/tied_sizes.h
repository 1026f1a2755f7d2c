// What sizes that depend on one another (TiedSize) are, and such sizes for those who try a network
// with inputs of their own choice. Free of torch.

#ifndef SCONCE_MODELS_TIED_SIZES_H_
#define SCONCE_MODELS_TIED_SIZES_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <vector>

#include "models/tensor_rules.h"

namespace sconce::models {

// multiple * n + offset; none where that cannot be counted.
inline std::optional<int64_t> SizeAt(const TiedSize& tied, int64_t n) {
  int64_t size = 0;
  if (__builtin_mul_overflow(tied.multiple, n, &size) ||
      __builtin_add_overflow(size, tied.offset, &size)) {
    return std::nullopt;
  }
  return size;
}

// Changes the sizes that were chosen for dimensions of -1 to such as the inputs' ties allow:
// `sizes[i]` are those of `inputs[i]`, which is a TensorSpec, without rows. They become smaller
// rather than larger, but where one that they go with is fixed.
template <typename Spec>
void TieSizes(const std::vector<Spec>& inputs, std::vector<std::vector<int64_t>>& sizes) {
  struct Number {
    std::optional<int64_t> fixed;
    int64_t smallest = std::numeric_limits<int64_t>::max();
  };
  std::map<int32_t, Number> numbers;
  const auto for_each_tied = [&](const auto& visit) {
    for (size_t i = 0; i < inputs.size(); ++i) {
      const std::vector<TiedSize>& ties = inputs[i].rules.ties;
      for (size_t d = 0; d < ties.size() && d < sizes[i].size(); ++d) {
        if (ties[d].tie != -1) visit(ties[d], inputs[i].dims[d] != -1, sizes[i][d]);
      }
    }
  };
  for_each_tied([&](const TiedSize& tied, bool is_fixed, int64_t size) {
    Number& number = numbers[tied.tie];
    int64_t multiples = 0;
    if (__builtin_sub_overflow(size, tied.offset, &multiples)) return;
    const int64_t n = std::max<int64_t>(multiples / tied.multiple, 0);
    if (is_fixed && !number.fixed.has_value()) number.fixed = n;
    number.smallest = std::min(number.smallest, n);
  });
  for_each_tied([&](const TiedSize& tied, bool is_fixed, int64_t& size) {
    if (is_fixed) return;
    const Number& number = numbers.at(tied.tie);
    const std::optional<int64_t> together = SizeAt(tied, number.fixed.value_or(number.smallest));
    // A size that cannot be is left to the network to refuse.
    if (together.has_value() && *together >= 0) size = *together;
  });
}

}  // namespace sconce::models

#endif  // SCONCE_MODELS_TIED_SIZES_H_
