#include "server/registry/signature_rules.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/element_index.h"
#include "server/base/printable.h"
#include "server/registry/tensor_fill.h"
#include "server/registry/tied_sizes.h"

namespace sconce {
namespace {

using models::Range;
using models::TensorRules;
using models::TiedSize;

std::string ValuesText(const std::optional<Range>& values) {
  return values.has_value() ? absl::StrCat(values->minimum, " to ", values->maximum) : "any";
}

int64_t CountOpen(const TensorSpec& spec) {
  return std::count(spec.dims.begin(), spec.dims.end(), -1);
}

// The rules of one tensor, each for itself.
absl::Status CheckOwnRules(const TensorSpec& spec) {
  const auto fail = [&](const auto&... parts) {
    return absl::InvalidArgumentError(
        absl::StrCat("the rules of '", Printable(spec.name), "': ", parts...));
  };
  const TensorRules& rules = spec.rules;
  if (!rules.sizes.empty() && rules.sizes.size() != spec.dims.size()) {
    return fail("expected sizes for ", spec.dims.size(), " dimensions, got ", rules.sizes.size());
  }
  for (const Range& sizes : rules.sizes) {
    if (sizes.minimum < 0 || sizes.maximum < sizes.minimum) {
      return fail("expected a range of sizes, got ", sizes.minimum, " to ", sizes.maximum);
    }
  }
  if (!rules.ties.empty() && rules.ties.size() != spec.dims.size()) {
    return fail("expected ties for ", spec.dims.size(), " dimensions, got ", rules.ties.size());
  }
  for (const TiedSize& tied : rules.ties) {
    if (tied.tie == -1) continue;
    if (tied.tie < -1 || tied.multiple < 1) {
      return fail("expected sizes that are multiples of a number from 1 on, got of ", tied.multiple,
                  " in the tie ", tied.tie);
    }
    if (rules.padding.has_value()) {
      return fail("expected no size of a padded input to depend on another, got one that does");
    }
  }
  if (rules.values.has_value() &&
      (!IsWhole(spec.dtype) || rules.values->maximum < rules.values->minimum)) {
    return fail("expected no values, or a range of whole numbers, got ", ValuesText(rules.values),
                " of ", std::string(OipDatatype(spec.dtype)));
  }
  for (const auto& [what, value] :
       {std::pair("absent", rules.absent), std::pair("padding", rules.padding)}) {
    if (value.has_value() && rules.values.has_value() && !rules.values->Has(*value)) {
      return fail("expected ", what, " to be one of its values, ", ValuesText(rules.values),
                  ", got ", *value);
    }
  }
  return absl::OkStatus();
}

template <typename T>
int64_t ElementAt(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  constexpr auto kMost = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  if constexpr (sizeof value == sizeof(uint64_t) && std::is_unsigned_v<T>) {
    return static_cast<int64_t>(std::min<uint64_t>(value, kMost));
  }
  return static_cast<int64_t>(value);
}

struct Outside {
  int64_t element = 0;
  int64_t value = 0;
};

// An element may lie in two pieces.
template <typename T>
std::optional<Outside> FirstOutside(const Range& values,
                                    absl::Span<const absl::Span<const std::byte>> pieces) {
  int64_t element = 0;
  std::byte part[sizeof(T)];
  size_t in_part = 0;
  for (absl::Span<const std::byte> piece : pieces) {
    if (in_part > 0) {
      const size_t more = std::min(sizeof(T) - in_part, piece.size());
      std::memcpy(part + in_part, piece.data(), more);
      in_part += more;
      piece.remove_prefix(more);
      if (in_part < sizeof(T)) continue;
      in_part = 0;
      const int64_t value = ElementAt<T>(part);
      if (!values.Has(value)) return Outside{element, value};
      ++element;
    }
    for (; piece.size() >= sizeof(T); piece.remove_prefix(sizeof(T)), ++element) {
      const int64_t value = ElementAt<T>(piece.data());
      if (!values.Has(value)) return Outside{element, value};
    }
    if (!piece.empty()) std::memcpy(part, piece.data(), in_part = piece.size());
  }
  return std::nullopt;
}

std::optional<Outside> FirstOutside(DType dtype, const Range& values,
                                    absl::Span<const absl::Span<const std::byte>> pieces) {
  switch (dtype) {
    case DType::kBool:
    case DType::kUInt8:
      return FirstOutside<uint8_t>(values, pieces);
    case DType::kInt8:
      return FirstOutside<int8_t>(values, pieces);
    case DType::kUInt16:
      return FirstOutside<uint16_t>(values, pieces);
    case DType::kInt16:
      return FirstOutside<int16_t>(values, pieces);
    case DType::kUInt32:
      return FirstOutside<uint32_t>(values, pieces);
    case DType::kInt32:
      return FirstOutside<int32_t>(values, pieces);
    case DType::kUInt64:
      return FirstOutside<uint64_t>(values, pieces);
    case DType::kInt64:
      return FirstOutside<int64_t>(values, pieces);
    default:
      return std::nullopt;
  }
}

bool Covers(const Range& wide, const Range& narrow) {
  return wide.minimum <= narrow.minimum && wide.maximum >= narrow.maximum;
}

// Of an input, or an output, at one place of both signatures.
std::string WhyIncompatible(const TensorSpec& before, const TensorSpec& after, bool input,
                            bool batched) {
  const std::string what =
      absl::StrCat(input ? "input '" : "output '", Printable(before.name), "' ");
  if (before.name != after.name || before.dtype != after.dtype || before.dims != after.dims) {
    return absl::StrCat(what, SpecString(before, batched), " would be '", Printable(after.name),
                        "' ", SpecString(after, batched));
  }
  if (!input) {
    return before.rules.padding.has_value() == after.rules.padding.has_value()
               ? ""
               : what + "would have other sizes";
  }
  for (size_t d = 0; d < before.dims.size(); ++d) {
    if (before.dims[d] == -1 && !Covers(after.SizesOf(d), before.SizesOf(d))) {
      return absl::StrCat(what, SpecString(before, batched), " would take ",
                          SpecString(after, batched));
    }
  }
  if (after.rules.values.has_value() &&
      (!before.rules.values.has_value() || !Covers(*after.rules.values, *before.rules.values))) {
    return absl::StrCat(what, "takes values ", ValuesText(before.rules.values), ", would take ",
                        ValuesText(after.rules.values));
  }
  if (before.rules.absent.has_value() && !after.rules.absent.has_value()) {
    return what + "may be left out and would have to be there";
  }
  return "";
}

}  // namespace

absl::Status CheckRules(const Signature& signature) {
  for (const auto* specs : {&signature.inputs, &signature.outputs}) {
    for (const TensorSpec& spec : *specs) {
      if (absl::Status own = CheckOwnRules(spec); !own.ok()) return own;
    }
  }
  const auto& rows = signature.rows.rows;
  if (rows.minimum < 1 || rows.maximum < rows.minimum) {
    return absl::InvalidArgumentError(
        absl::StrCat("the network's rows: expected a range of at least 1, got ", rows.minimum,
                     " to ", rows.maximum));
  }
  if (signature.inputs.empty()) return absl::OkStatus();
  const TensorSpec& first = signature.inputs[0];
  const auto check = [&](const TensorSpec& spec, const char* why) -> absl::Status {
    const bool padded = spec.rules.padding.has_value();
    const bool first_is_padded =
        first.rules.padding.has_value() && CountOpen(first) > 0 && signature.rows.batched;
    if ((padded && !first_is_padded) || CountOpen(spec) != CountOpen(first)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the rules of '", Printable(spec.name), "', which ", why,
                       ": expected the first input '", Printable(first.name),
                       "' to have a batch dimension, a padding and as many dimensions of -1, got ",
                       SpecString(spec, signature.rows.batched), " and ",
                       SpecString(first, signature.rows.batched)));
    }
    return absl::OkStatus();
  };
  for (size_t i = 0; i < signature.inputs.size(); ++i) {
    const TensorSpec& spec = signature.inputs[i];
    if (spec.rules.absent.has_value() && (i == 0 || spec.dims != first.dims)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the rules of '", Printable(spec.name),
          "': an input that may be left out is not the first, and has its dimensions"));
    }
    if (!spec.FollowsFirst()) continue;
    if (absl::Status tied = check(spec, "is padded or may be left out"); !tied.ok()) return tied;
  }
  for (const TensorSpec& spec : signature.outputs) {
    if (spec.rules.padding.has_value()) {
      if (absl::Status cut = check(spec, "is cut back"); !cut.ok()) return cut;
    } else if (first.rules.padding.has_value() && CountOpen(spec) > 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the rules of '", Printable(spec.name), "': an output with dimensions of -1 ",
          "of a network whose inputs are padded has to be cut back"));
    }
  }
  return absl::OkStatus();
}

std::string WhyIncompatible(const Signature& before, const Signature& after) {
  const bool batched = before.rows.batched;
  if (batched != after.rows.batched) {
    return batched ? "there would be no batch dimension" : "there would be a batch dimension";
  }
  if (before.inputs.size() != after.inputs.size() ||
      before.outputs.size() != after.outputs.size()) {
    return "there would be another number of inputs or outputs";
  }
  for (size_t i = 0; i < before.inputs.size(); ++i) {
    std::string why = WhyIncompatible(before.inputs[i], after.inputs[i], true, batched);
    if (!why.empty()) return why;
  }
  if (std::string why = WhyFewerSizes(before, after); !why.empty()) return why;
  for (size_t i = 0; i < before.outputs.size(); ++i) {
    std::string why = WhyIncompatible(before.outputs[i], after.outputs[i], false, batched);
    if (!why.empty()) return why;
  }
  return "";
}

absl::Status CheckValues(const std::string& model_version, const TensorSpec& spec,
                         absl::Span<const int64_t> shape,
                         absl::Span<const absl::Span<const std::byte>> pieces) {
  if (!spec.rules.values.has_value()) return absl::OkStatus();
  const auto outside = FirstOutside(spec.dtype, *spec.rules.values, pieces);
  if (!outside.has_value()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      model_version, ": input '", spec.name, "' expects values ", ValuesText(spec.rules.values),
      ", got ", outside->value, " at ", ElementIndexText(outside->element, shape)));
}

}  // namespace sconce
