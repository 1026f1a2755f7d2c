#include "server/rpc/parameters.h"

#include <algorithm>
#include <cstdint>
#include <string>

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

absl::Status CheckTensorParameters(const char* kind, const std::string& tensor,
                                   const ParameterMap& parameters) {
  for (const auto& [name, value] : parameters) {
    if (absl::StartsWith(name, "shared_memory_")) {
      return absl::UnimplementedError(
          absl::StrCat(kind, " '", Printable(tensor),
                       "': shared memory is not supported, send and receive tensors in messages"));
    }
    if (name == "classification" && AsCount(value) != uint64_t{0}) {
      return absl::UnimplementedError(absl::StrCat(
          kind, " '", Printable(tensor), "': the classification extension is not supported"));
    }
    if (absl::StartsWith(name, "triton_")) {
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

}  // namespace sconce
