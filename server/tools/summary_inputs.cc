#include "server/tools/summary_inputs.h"

#include <ATen/ops/full.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "models/tied_sizes.h"
#include "server/base/about_file.h"
#include "server/base/host_memory_budget.h"
#include "server/base/printable.h"
#include "server/checkpoint/checkpoint.h"
#include "server/tools/text.h"
#include "server/weights/state_dict.h"

namespace sconce::tools {
namespace {

using Sizes = std::vector<int64_t>;

// What a size that is not fixed is unless it is given, where the network allows that.
constexpr int64_t kAnySize = 128;

models::Range RangeOf(const models::TensorSpec& spec, size_t dimension) {
  models::Range range;
  if (dimension < spec.rules.sizes.size()) range = spec.rules.sizes[dimension];
  range.minimum = std::max<int64_t>(range.minimum, 1);
  return range;
}

// "3,224,224", with an open size as what it may be.
std::string DimsText(const models::TensorSpec& spec) {
  std::vector<std::string> parts;
  for (size_t d = 0; d < spec.dims.size(); ++d) {
    const models::Range range = RangeOf(spec, d);
    if (spec.dims[d] >= 0) {
      parts.push_back(absl::StrCat(spec.dims[d]));
    } else if (range.maximum == models::Range{}.maximum) {
      parts.push_back(range.minimum == 1 ? "any" : absl::StrCat("from ", range.minimum));
    } else {
      parts.push_back(absl::StrCat(range.minimum, " to ", range.maximum));
    }
  }
  return absl::StrJoin(parts, ", ");
}

absl::StatusOr<Sizes> ParseSize(const std::string& text, const models::TensorSpec& spec) {
  Sizes size;
  for (const absl::string_view part : absl::StrSplit(text, absl::ByAnyChar(",x"))) {
    int64_t number = 0;
    if (!absl::SimpleAtoi(part, &number) || number < 1 || number > (int64_t{1} << 31)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--input-size: expected numbers such as 3,224,224, got '", Printable(text), "'"));
    }
    size.push_back(number);
  }
  bool fits = size.size() == spec.dims.size();
  for (size_t d = 0; fits && d < size.size(); ++d) {
    fits = spec.dims[d] >= 0 || RangeOf(spec, d).Has(size[d]);
  }
  if (fits) return size;
  return absl::InvalidArgumentError(
      absl::StrCat("--input-size: input '", Printable(spec.name), "' is of ",
                   PluralText(static_cast<int64_t>(spec.dims.size()), "size"),
                   " without the batch (", DimsText(spec), "), got '", Printable(text), "'"));
}

// Without the batch dimension.
Sizes OwnSize(const models::TensorSpec& spec) {
  Sizes size = spec.dims;
  for (size_t d = 0; d < size.size(); ++d) {
    const models::Range range = RangeOf(spec, d);
    if (size[d] < 0) size[d] = std::clamp(kAnySize, range.minimum, range.maximum);
  }
  return size;
}

// The open sizes of an input that is filled up, or left out, are those of the first one.
void FollowFirst(const models::Signature& signature, const std::vector<bool>& given,
                 std::vector<Sizes>* sizes) {
  Sizes open;
  for (size_t d = 0; d < signature.inputs[0].dims.size(); ++d) {
    if (signature.inputs[0].dims[d] < 0) open.push_back((*sizes)[0][d]);
  }
  for (size_t i = 1; i < signature.inputs.size(); ++i) {
    const models::TensorSpec& spec = signature.inputs[i];
    if (given[i] || (!spec.rules.padding.has_value() && !spec.rules.absent.has_value())) continue;
    size_t next = 0;
    for (size_t d = 0; d < spec.dims.size(); ++d) {
      if (spec.dims[d] < 0 && next < open.size()) (*sizes)[i][d] = open[next++];
    }
  }
}

absl::StatusOr<at::Tensor> Filled(const Sizes& size, int64_t value, at::ScalarType dtype) {
  int64_t bytes = static_cast<int64_t>(c10::elementSize(dtype));
  bool too_large = false;
  for (const int64_t n : size) too_large = too_large || __builtin_mul_overflow(bytes, n, &bytes);
  const std::optional<HostMemory> memory = ReadHostMemory();
  if (too_large || (memory.has_value() && bytes > memory->free_bytes)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "an input ", ShapeText(size), " takes more memory than is free",
        too_large ? ""
                  : absl::StrCat(": ", BytesText(bytes), " of ", BytesText(memory->free_bytes))));
  }
  return at::full(size, value, at::TensorOptions(dtype));
}

int64_t PlainValue(const models::TensorRules& rules) {
  return rules.values.has_value() ? rules.values->minimum : rules.absent.value_or(0);
}

absl::StatusOr<at::Tensor> Sample(const StateEntry& entry, const models::TensorSpec& spec,
                                  bool batched) {
  const at::Tensor& tensor = entry.tensor;
  const auto error = [&](const auto&... what) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor '", Printable(spec.name), "': expected ", what...));
  };
  const int64_t dims = static_cast<int64_t>(spec.dims.size()) + (batched ? 1 : 0);
  if (tensor.dim() != dims || tensor.numel() == 0) {
    return error(dims, " dimensions", batched ? ", the batch first" : "", ", got ",
                 ShapeText(tensor.sizes()));
  }
  if (c10::isFloatingType(tensor.scalar_type()) && !c10::isFloatingType(spec.dtype)) {
    return error("integers, got ", c10::toString(tensor.scalar_type()));
  }
  if (spec.rules.values.has_value()) {
    const models::Range& values = *spec.rules.values;
    const auto smallest = tensor.min().item<int64_t>();
    const auto largest = tensor.max().item<int64_t>();
    if (!values.Has(smallest) || !values.Has(largest)) {
      return error("values from ", values.minimum, " to ", values.maximum, ", got ",
                   values.Has(smallest) ? largest : smallest);
    }
  }
  return tensor.to(spec.dtype);
}

}  // namespace

absl::StatusOr<std::vector<at::Tensor>> PlainInputs(const models::Signature& signature,
                                                    const std::vector<std::string>& sizes,
                                                    int64_t batch) {
  if (sizes.size() > signature.inputs.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--input-size: expected at most ", signature.inputs.size(), ", got ", sizes.size()));
  }
  const models::Range& rows = signature.rows.rows;
  if (!signature.rows.batched && batch != 1) {
    return absl::InvalidArgumentError("--batch: the network's inputs have no batch dimension");
  }
  if (batch > rows.maximum) {
    return absl::InvalidArgumentError(absl::StrCat("--batch: expected at most ", rows.maximum,
                                                   ", which the network takes, got ", batch));
  }
  // With what is given as what is fixed.
  std::vector<models::TensorSpec> specs = signature.inputs;
  std::vector<Sizes> chosen;
  std::vector<bool> given(specs.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    chosen.push_back(OwnSize(specs[i]));
    if (i >= sizes.size()) continue;
    auto size = ParseSize(sizes[i], specs[i]);
    if (!size.ok()) return size.status();
    chosen[i] = specs[i].dims = *std::move(size);
    given[i] = true;
  }
  if (!specs.empty()) FollowFirst(signature, given, &chosen);
  models::TieSizes(specs, chosen);
  std::vector<at::Tensor> inputs;
  for (size_t i = 0; i < specs.size(); ++i) {
    if (signature.rows.batched) {
      chosen[i].insert(chosen[i].begin(), std::max(batch, rows.minimum));
    }
    auto input = Filled(chosen[i], PlainValue(specs[i].rules), specs[i].dtype);
    if (!input.ok()) return input.status();
    inputs.push_back(*std::move(input));
  }
  return inputs;
}

absl::StatusOr<std::vector<at::Tensor>> SampleInputs(const models::Signature& signature,
                                                     const std::string& path) {
  const auto file = OpenCheckpoint(path);
  if (!file.ok()) return file.status();
  const auto state = ReadStateDict(**file);
  if (!state.ok()) return state.status();
  std::vector<at::Tensor> inputs;
  for (const models::TensorSpec& spec : signature.inputs) {
    const auto found =
        std::find_if(state->tensors.begin(), state->tensors.end(), [&](const StateEntry& entry) {
          return entry.name == spec.name && !entry.quantized && !entry.sparse.has_value();
        });
    if (found == state->tensors.end()) {
      if (spec.rules.absent.has_value() && !inputs.empty()) {
        inputs.push_back(
            at::full(inputs[0].sizes(), *spec.rules.absent, at::TensorOptions(spec.dtype)));
        continue;
      }
      std::vector<std::string> names;
      for (const StateEntry& entry : state->tensors) {
        if (names.size() < 5) names.push_back(Printable(entry.name));
      }
      return AboutFile(path, absl::InvalidArgumentError(absl::StrCat(
                                 "expected a tensor '", Printable(spec.name), "', found none",
                                 names.empty() ? "" : " among ", absl::StrJoin(names, ", "),
                                 names.size() < state->tensors.size() ? ", ..." : "")));
    }
    auto sample = Sample(*found, spec, signature.rows.batched);
    if (!sample.ok()) return AboutFile(path, sample.status());
    inputs.push_back(*std::move(sample));
  }
  return inputs;
}

}  // namespace sconce::tools
