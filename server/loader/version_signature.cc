#include "server/loader/version_signature.h"

#include <c10/core/ScalarType.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/printable.h"
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
    converted.push_back({spec.name, *dtype, spec.dims});
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
  }
  return absl::OkStatus();
}

// The network's inputs or outputs, in the same order, as the configuration has them.
absl::StatusOr<std::vector<TensorSpec>> Override(absl::string_view what,
                                                 const std::vector<TensorSpec>& native,
                                                 const std::vector<TensorSpec>& configured) {
  if (configured.empty()) return native;
  const auto describe = [](const std::vector<TensorSpec>& specs) {
    return absl::StrJoin(specs, ", ", [](std::string* out, const TensorSpec& spec) {
      absl::StrAppend(out, "'", Printable(spec.name), "' ", SpecString(spec));
    });
  };
  bool fits = configured.size() == native.size();
  for (size_t i = 0; fits && i < native.size(); ++i) {
    fits = configured[i].dtype == native[i].dtype &&
           configured[i].dims.size() == native[i].dims.size();
  }
  if (!fits) {
    return absl::InvalidArgumentError(absl::StrCat("config.pbtxt: ", what, ": expected the ",
                                                   "datatypes and ranks of ", describe(native),
                                                   ", got ", describe(configured)));
  }
  return configured;
}

}  // namespace

absl::StatusOr<VersionSignature> SignatureOf(const models::Signature& network,
                                             const ModelConfig& config) {
  auto inputs = ToSpecs(network.inputs);
  if (!inputs.ok()) return inputs.status();
  auto outputs = ToSpecs(network.outputs);
  if (!outputs.ok()) return outputs.status();
  for (size_t i = 0; i < config.execution.normalise.size() && i < inputs->size(); ++i) {
    if (!config.execution.normalise[i].has_value()) continue;
    absl::Status made = MakePixels(*config.execution.normalise[i], (*inputs)[i]);
    if (!made.ok()) return made;
  }
  auto served_inputs = Override("input", *inputs, config.inputs);
  if (!served_inputs.ok()) return served_inputs.status();
  auto served_outputs = Override("output", *outputs, config.outputs);
  if (!served_outputs.ok()) return served_outputs.status();
  return VersionSignature{{*std::move(served_inputs), *std::move(served_outputs)},
                          {*std::move(inputs), *std::move(outputs)}};
}

}  // namespace sconce
