#include "server/rpc/prepare.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/rpc/contents.h"
#include "server/rpc/parameters.h"

namespace sconce {
namespace {

absl::Status Prefixed(const std::string& label, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(label, ": ", status.message()));
}

int64_t SizeOf(const InputBytes& bytes) {
  int64_t size = 0;
  for (const Piece& piece : bytes.pieces) size += static_cast<int64_t>(piece.size());
  return size;
}

std::string DeclaredString(const DeclaredInput& input) {
  return absl::StrCat(input.datatype, ShapeString(input.shape));
}

absl::Status CheckRaw(const std::string& label, const DecodedInfer& decoded,
                      const Signature& signature, const InferRequest& request) {
  for (size_t i = 0; i < signature.inputs.size(); ++i) {
    const size_t at = request.checked.position[i];
    const int64_t expected = request.checked.size_bytes[i];
    const int64_t got = SizeOf(decoded.raw[at]);
    if (got != expected) {
      return absl::InvalidArgumentError(
          absl::StrCat(label, ": input '", signature.inputs[i].name, "' expects ", expected,
                       " bytes for ", DeclaredString(request.declared[at]), ", got ", got));
    }
  }
  return absl::OkStatus();
}

// Converts typed contents; `request->bytes` are then views of the converted bytes.
absl::Status ConvertContents(const std::string& label, const DecodedInfer& decoded,
                             const Signature& signature, InferRequest* request) {
  auto converted = std::make_shared<std::vector<std::vector<std::byte>>>();
  request->bytes.resize(decoded.contents.size());
  const InputBytes unset;
  for (size_t i = 0; i < signature.inputs.size(); ++i) {
    const TensorSpec& spec = signature.inputs[i];
    const size_t at = request->checked.position[i];
    const int64_t count = request->checked.size_bytes[i] / DTypeSize(spec.dtype);
    if (!decoded.contents[at].has_value() && count > 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(label, ": input '", spec.name,
                       "' has no data: expected raw_input_contents, or contents in every input"));
    }
    auto bytes = DecodeContents(decoded.contents[at].value_or(unset), spec.dtype, count,
                                absl::StrCat(label, ": input '", spec.name, "' of ",
                                             DeclaredString(request->declared[at])));
    if (!bytes.ok()) return bytes.status();
    converted->push_back(*std::move(bytes));
    request->bytes[at].pieces.emplace_back(converted->back());
  }
  request->wire = std::move(converted);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PreparedInfer> PrepareInfer(DecodedInfer decoded, std::shared_ptr<void> wire,
                                           std::shared_ptr<const ModelVersion> version,
                                           TimePoint arrival, TimePoint deadline) {
  const std::string label = version->Label();
  inference::ModelInferRequest& header = decoded.header;
  const auto parameters = ReadParameters(header);
  if (!parameters.ok()) return Prefixed(label, parameters.status());

  PreparedInfer prepared;
  InferRequest& request = prepared.request;
  for (auto& input : *header.mutable_inputs()) {
    request.declared.push_back({std::move(*input.mutable_name()),
                                std::move(*input.mutable_datatype()),
                                {input.shape().begin(), input.shape().end()}});
  }
  auto checked =
      CheckInputs(label, version->signature, version->config.max_batch_size, request.declared);
  if (!checked.ok()) return checked.status();
  request.checked = *std::move(checked);

  const bool raw = !decoded.raw.empty();
  if (raw) {
    for (size_t i = 0; i < decoded.contents.size(); ++i) {
      if (decoded.contents[i].has_value()) {
        return absl::InvalidArgumentError(
            absl::StrCat(label, ": input '", request.declared[i].name,
                         "' has contents beside raw_input_contents; expected one or the other"));
      }
    }
    if (decoded.raw.size() != request.declared.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(label, ": expected raw_input_contents for each of ", request.declared.size(),
                       " inputs, got ", decoded.raw.size()));
    }
    absl::Status sizes = CheckRaw(label, decoded, version->signature, request);
    if (!sizes.ok()) return sizes;
    request.bytes = std::move(decoded.raw);
    request.wire = std::move(wire);
  } else {
    absl::Status converted = ConvertContents(label, decoded, version->signature, &request);
    if (!converted.ok()) return converted;
  }

  AnswerFormat& format = prepared.format;
  for (auto& output : *header.mutable_outputs()) {
    format.outputs.push_back(std::move(*output.mutable_name()));
  }
  // Found out now rather than after the work; checked again in the version that answers.
  const auto selected = SelectOutputs(label, version->signature, format.outputs);
  if (!selected.ok()) return selected.status();
  format.id = std::move(*header.mutable_id());
  format.raw = parameters->binary_output.value_or(raw);
  format.mark_final = parameters->mark_final;

  request.arrival = arrival;
  request.deadline = deadline;
  if (parameters->timeout) {
    request.deadline = std::min(deadline, arrival + *parameters->timeout);
  } else if (deadline == TimePoint::max() && version->config.default_timeout.count() > 0) {
    request.deadline = arrival + version->config.default_timeout;
  }
  request.checked_against = std::move(version);
  return prepared;
}

}  // namespace sconce
