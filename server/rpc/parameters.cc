#include "server/rpc/parameters.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/base/printable.h"

namespace sconce {
namespace {

using inference::InferParameter;
using ParameterMap = google::protobuf::Map<std::string, InferParameter>;

// Longer than any request waits; keeps sums of time points far from overflow.
constexpr uint64_t kMaxTimeoutMicroseconds = uint64_t{365} * 24 * 3600 * 1000000;

absl::Status WrongType(const std::string& name, const char* expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("parameter '", name, "' expects ", expected, ", got something else"));
}

std::optional<bool> AsBool(const InferParameter& value) {
  if (value.parameter_choice_case() != InferParameter::kBoolParam) return std::nullopt;
  return value.bool_param();
}

std::optional<uint64_t> AsCount(const InferParameter& value) {
  if (value.parameter_choice_case() == InferParameter::kUint64Param) return value.uint64_param();
  if (value.parameter_choice_case() == InferParameter::kInt64Param && value.int64_param() >= 0) {
    return static_cast<uint64_t>(value.int64_param());
  }
  return std::nullopt;
}

bool IsSequenceId(const InferParameter& value) {
  return value.parameter_choice_case() == InferParameter::kStringParam ||
         AsCount(value).has_value();
}

// A number of bytes that a client gives; an offset may be 0.
absl::StatusOr<int64_t> AsBytes(const std::string& name, const InferParameter& value,
                                const std::string& what) {
  const auto fail = [&](const auto& got) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": parameter '", name, "' expects a number of bytes, got ", got));
  };
  const std::optional<uint64_t> count = AsCount(value);
  if (count && *count <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return static_cast<int64_t>(*count);
  }
  if (count) return fail(*count);
  if (value.parameter_choice_case() == InferParameter::kInt64Param) {
    return fail(value.int64_param());
  }
  return fail("something else");
}

absl::Status CheckTensorParameters(const char* kind, const std::string& tensor,
                                   const ParameterMap& parameters) {
  for (const auto& [name, value] : parameters) {
    if (name == "classification" && AsCount(value) != uint64_t{0}) {
      return absl::UnimplementedError(absl::StrCat(
          kind, " '", Printable(tensor), "': the classification extension is not supported"));
    }
    const bool of_a_place = name == "shared_memory_region" || name == "shared_memory_byte_size" ||
                            name == "shared_memory_offset";
    if (absl::StartsWith(name, "triton_") ||
        (absl::StartsWith(name, "shared_memory_") && !of_a_place)) {
      return absl::InvalidArgumentError(absl::StrCat(
          kind, " '", Printable(tensor), "': unknown reserved parameter '", Printable(name), "'"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<InferParameters> ReadParameters(const inference::ModelInferRequest& request) {
  InferParameters read;
  for (const auto& [name, value] : request.parameters()) {
    if (name == "timeout") {
      const std::optional<uint64_t> timeout = AsCount(value);
      if (!timeout) return WrongType(name, "a number of microseconds");
      // 0: no timeout, as if it were not given.
      if (*timeout > 0) {
        read.timeout = std::chrono::microseconds(std::min(*timeout, kMaxTimeoutMicroseconds));
      }
    } else if (name == "priority") {
      if (!AsCount(value)) return WrongType(name, "a number");
    } else if (name == "sequence_id") {
      if (!IsSequenceId(value)) return WrongType(name, "a number or a string");
    } else if (name == "sequence_start" || name == "sequence_end") {
      if (!AsBool(value)) return WrongType(name, "a bool");
    } else if (name == "binary_data_output") {
      read.binary_output = AsBool(value);
      if (!read.binary_output) return WrongType(name, "a bool");
    } else if (name == "triton_enable_empty_final_response") {
      if (!AsBool(value)) return WrongType(name, "a bool");
      read.mark_final = value.bool_param();
    } else if (absl::StartsWith(name, "triton_")) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown reserved parameter '", Printable(name),
                       "', expected triton_enable_empty_final_response or a name without the "
                       "prefix 'triton_'"));
    }
  }
  for (const auto& input : request.inputs()) {
    absl::Status status = CheckTensorParameters("input", input.name(), input.parameters());
    if (!status.ok()) return status;
  }
  for (const auto& output : request.outputs()) {
    absl::Status status = CheckTensorParameters("output", output.name(), output.parameters());
    if (!status.ok()) return status;
  }
  return read;
}

absl::StatusOr<std::optional<RegionPlace>> ReadRegionPlace(const ParameterMap& parameters,
                                                           const std::string& what) {
  RegionPlace place;
  const auto region = parameters.find("shared_memory_region");
  const auto size = parameters.find("shared_memory_byte_size");
  const auto offset = parameters.find("shared_memory_offset");
  if (region == parameters.end()) {
    if (size == parameters.end() && offset == parameters.end()) return std::nullopt;
    return absl::InvalidArgumentError(absl::StrCat(
        what, ": expected shared_memory_region beside the other parameters of shared memory"));
  }
  if (region->second.parameter_choice_case() != InferParameter::kStringParam) {
    return absl::InvalidArgumentError(absl::StrCat(
        what, ": parameter 'shared_memory_region' expects a name, got something else"));
  }
  place.region = region->second.string_param();
  if (size == parameters.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": expected shared_memory_byte_size beside shared_memory_region '",
                     Printable(place.region), "'"));
  }
  const auto size_bytes = AsBytes(size->first, size->second, what);
  if (!size_bytes.ok()) return size_bytes.status();
  place.size_bytes = *size_bytes;
  if (offset != parameters.end()) {
    const auto offset_bytes = AsBytes(offset->first, offset->second, what);
    if (!offset_bytes.ok()) return offset_bytes.status();
    place.offset_bytes = *offset_bytes;
  }
  return std::optional<RegionPlace>(std::move(place));
}

}  // namespace sconce
