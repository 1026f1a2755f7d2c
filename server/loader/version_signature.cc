#include "server/loader/version_signature.h"

#include <c10/core/ScalarType.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/printable.h"
#include "server/registry/signature_rules.h"
#include "server/weights/scalar_type.h"

namespace sconce {
namespace {

absl::StatusOr<std::vector<TensorSpec>> ToSpecs(const std::vector<models::TensorSpec>& specs) {
  std::vector<TensorSpec> converted;
  for (const models::TensorSpec& spec : specs) {
    const auto dtype = FromScalarType(spec.dtype);
    if (!dtype.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("'", spec.name, "' has a type that cannot be ",
                                                     "served: ", c10::toString(spec.dtype)));
    }
    converted.push_back({spec.name, *dtype, spec.dims, spec.rules});
  }
  return converted;
}

// The input as pixels that become it.
absl::Status MakePixels(const Normalisation& normalisation, TensorSpec& input) {
  const auto channels = static_cast<int64_t>(normalisation.scale.size());
  const bool is_image = input.dims.size() == 3 && c10::isFloatingType(ToScalarType(input.dtype)) &&
                        (input.dims[0] == -1 || input.dims[0] == channels);
  if (!is_image) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.pbtxt: normalize: expected an input of numbers that is an image of ",
                     channels, " channels, got '", Printable(input.name), "' ", SpecString(input)));
  }
  input.dtype = DType::kUInt8;
  if (normalisation.layout == ImageLayout::kNhwc) {
    input.dims = {input.dims[1], input.dims[2], input.dims[0]};
    std::vector<models::Range>& sizes = input.rules.sizes;
    if (sizes.size() == 3) sizes = {sizes[1], sizes[2], sizes[0]};
    std::vector<models::TiedSize>& ties = input.rules.ties;
    if (ties.size() == 3) ties = {ties[1], ties[2], ties[0]};
  }
  return absl::OkStatus();
}

constexpr size_t kNone = static_cast<size_t>(-1);

// 3 of "INPUT__3".
std::optional<size_t> PlaceIn(const std::string& name) {
  const size_t mark = name.rfind("__");
  const std::string digits = mark == std::string::npos ? "" : name.substr(mark + 2);
  size_t place = 0;
  if (digits.empty() || digits.find_first_not_of("0123456789") != std::string::npos ||
      !absl::SimpleAtoi(digits, &place)) {
    return std::nullopt;
  }
  return place;
}

// For each of the network's tensors the index of the configured one that is meant; kNone where
// there is none. Empty where they cannot be brought together.
std::vector<size_t> Match(const std::vector<TensorSpec>& native,
                          const std::vector<TensorSpec>& configured) {
  std::vector<size_t> by_name(native.size(), kNone);
  std::vector<size_t> by_place(native.size(), kNone);
  size_t named = 0;
  size_t placed = 0;
  for (size_t c = 0; c < configured.size(); ++c) {
    for (size_t i = 0; i < native.size(); ++i) {
      if (native[i].name != configured[c].name) continue;
      by_name[i] = c;
      ++named;
    }
    const std::optional<size_t> place = PlaceIn(configured[c].name);
    if (!place.has_value() || *place >= native.size() || by_place[*place] != kNone) continue;
    by_place[*place] = c;
    ++placed;
  }
  if (named == configured.size()) return by_name;
  if (configured.size() != native.size()) return {};
  if (placed == configured.size()) return by_place;
  std::vector<size_t> in_order(native.size());
  std::iota(in_order.begin(), in_order.end(), 0);
  return in_order;
}

// What stands at the configured tensors' places, at the network's.
template <typename T>
std::vector<std::optional<T>> Ordered(const std::vector<std::optional<T>>& configured,
                                      const std::vector<size_t>& match) {
  if (configured.empty()) return {};
  std::vector<std::optional<T>> ordered(match.size());
  for (size_t i = 0; i < match.size(); ++i) {
    if (match[i] < configured.size()) ordered[i] = configured[match[i]];
  }
  return ordered;
}

// The network's inputs or outputs, in its order, as the configuration has them; `native` then has
// them in the dimensions that clients see. `match` is of Match; empty where nothing is configured.
absl::StatusOr<std::vector<TensorSpec>> Override(
    absl::string_view what, bool batched, const std::vector<TensorSpec>& configured,
    const std::vector<size_t>& match, const std::vector<std::optional<Reshape>>& reshapes,
    std::vector<TensorSpec>& native) {
  if (configured.empty()) return native;
  const auto describe = [batched](const std::vector<TensorSpec>& specs) {
    return absl::StrJoin(specs, ", ", [batched](std::string* out, const TensorSpec& spec) {
      absl::StrAppend(out, "'", Printable(spec.name), "' ", SpecString(spec, batched));
    });
  };
  bool fits = !match.empty();
  std::vector<TensorSpec> served = native;
  for (size_t i = 0; fits && i < match.size(); ++i) {
    const bool may_lack = what == "input" && native[i].rules.absent.has_value();
    if (match[i] == kNone) {
      // It has the first one's dimensions.
      fits = may_lack;
      served[i].dims = served[0].dims;
      continue;
    }
    const TensorSpec& spec = configured[match[i]];
    const Reshape* const reshape =
        i < reshapes.size() && reshapes[i].has_value() ? &*reshapes[i] : nullptr;
    const std::vector<int64_t>& dims = reshape == nullptr ? spec.dims : reshape->network;
    fits = spec.dtype == native[i].dtype && dims.size() == native[i].dims.size();
    served[i].name = spec.name;
    served[i].dims = spec.dims;
    if (reshape == nullptr) continue;
    // What the network says of its dimensions is of others than clients see.
    for (TensorSpec* spec : {&served[i], &native[i]}) {
      spec->rules.sizes.clear();
      spec->rules.ties.clear();
    }
    native[i].dims = spec.dims;
  }
  if (!fits) {
    return absl::InvalidArgumentError(absl::StrCat("config.pbtxt: ", what, ": expected the ",
                                                   "datatypes and ranks of ", describe(native),
                                                   ", got ", describe(configured)));
  }
  return served;
}

// The rows become a dimension like others.
void MakeUnbatched(const models::RowRules& rows, std::vector<TensorSpec>* specs) {
  for (TensorSpec& spec : *specs) {
    if (spec.rules.sizes.empty()) spec.rules.sizes.resize(spec.dims.size());
    spec.dims.insert(spec.dims.begin(), -1);
    spec.rules.sizes.insert(spec.rules.sizes.begin(), rows.rows);
    spec.rules.padding.reset();
  }
}

// The first dimension is the same of all inputs.
void TieRows(std::vector<TensorSpec>* inputs) {
  if (inputs->size() < 2) return;
  int32_t last = -1;
  for (const TensorSpec& spec : *inputs) {
    for (const models::TiedSize& tied : spec.rules.ties) last = std::max(last, tied.tie);
  }
  for (TensorSpec& spec : *inputs) {
    std::vector<models::TiedSize>& ties = spec.rules.ties;
    if (ties.empty()) ties.resize(spec.dims.size() - 1);
    ties.insert(ties.begin(), {.tie = last + 1});
  }
}

// Where the configuration leaves no size open, requests do not differ in any.
void DropPaddingWhereNothingIsOpen(Signature* signature) {
  if (signature->inputs.empty()) return;
  const std::vector<int64_t>& first = signature->inputs[0].dims;
  if (std::count(first.begin(), first.end(), -1) > 0) return;
  for (auto* specs : {&signature->inputs, &signature->outputs}) {
    for (TensorSpec& spec : *specs) spec.rules.padding.reset();
  }
}

}  // namespace

absl::StatusOr<VersionSignature> SignatureOf(const models::Signature& network,
                                             const ModelConfig& config) {
  auto inputs = ToSpecs(network.inputs);
  if (!inputs.ok()) return inputs.status();
  auto outputs = ToSpecs(network.outputs);
  if (!outputs.ok()) return outputs.status();
  models::RowRules rows = network.rows;
  if (config.max_batch_size == 0 && rows.batched) {
    MakeUnbatched(rows, &*inputs);
    TieRows(&*inputs);
    MakeUnbatched(rows, &*outputs);
    rows = {.batched = false};
  }
  const std::vector<size_t> input_match = Match(*inputs, config.inputs);
  const std::vector<size_t> output_match = Match(*outputs, config.outputs);
  VersionSignature signature;
  signature.execution = config.execution;
  ExecutionOptions& execution = signature.execution;
  execution.normalise = Ordered(execution.normalise, input_match);
  execution.reshape_inputs = Ordered(execution.reshape_inputs, input_match);
  execution.reshape_outputs = Ordered(execution.reshape_outputs, output_match);
  for (size_t i = 0; i < execution.normalise.size() && i < inputs->size(); ++i) {
    if (!execution.normalise[i].has_value()) continue;
    absl::Status made = MakePixels(*execution.normalise[i], (*inputs)[i]);
    if (!made.ok()) return made;
  }
  auto served_inputs = Override("input", rows.batched, config.inputs, input_match,
                                execution.reshape_inputs, *inputs);
  if (!served_inputs.ok()) return served_inputs.status();
  auto served_outputs = Override("output", rows.batched, config.outputs, output_match,
                                 execution.reshape_outputs, *outputs);
  if (!served_outputs.ok()) return served_outputs.status();
  signature.served = {*std::move(served_inputs), *std::move(served_outputs), rows};
  signature.native = {*std::move(inputs), *std::move(outputs), rows};
  DropPaddingWhereNothingIsOpen(&signature.served);
  if (absl::Status sound = CheckRules(signature.served); !sound.ok()) return sound;
  return signature;
}

}  // namespace sconce
