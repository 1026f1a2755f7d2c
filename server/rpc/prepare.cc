#include "server/rpc/prepare.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/batching/request_check.h"
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

// An input's bytes are taken from its region; else from the raw contents, where there are any; else
// from its contents.
class InputBytesTaker {
 public:
  InputBytesTaker(const std::string& label, const SharedMemoryRegions& regions,
                  DecodedInfer* decoded, const Signature& signature, InferRequest* request)
      : label_(label),
        regions_(regions),
        decoded_(*decoded),
        signature_(signature),
        request_(*request) {}

  absl::Status Take() {
    absl::Status status = ReadPlaces();
    if (status.ok()) status = decoded_.raw.empty() ? absl::OkStatus() : PlaceRaw();
    if (!status.ok()) return status;
    for (size_t i = 0; i < signature_.inputs.size(); ++i) {
      const size_t at = request_.checked.position[i];
      if (at == CheckedInputs::kAbsent) continue;
      if (places_[at]) {
        status = TakeRegion(at, request_.checked.size_bytes[i]);
      } else if (decoded_.raw.empty()) {
        status = ConvertContents(at, signature_.inputs[i].dtype, request_.checked.size_bytes[i]);
      } else {
        status = CheckRaw(at, request_.checked.size_bytes[i]);
      }
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // Whether the answer to such a request is raw, where it does not say.
  bool raw() const { return !decoded_.raw.empty() || (in_regions_ > 0 && converted_ == nullptr); }
  // What the converted contents lie in; null where there are none.
  std::shared_ptr<void> converted() const { return converted_; }

 private:
  std::string What(size_t at) const {
    return absl::StrCat(label_, ": input '", request_.declared[at].name, "'");
  }
  std::string WhatOf(size_t at) const {
    return absl::StrCat(" bytes for ", request_.declared[at].datatype,
                        ShapeString(request_.declared[at].shape));
  }

  absl::Status ReadPlaces() {
    request_.bytes.resize(request_.declared.size());
    for (size_t at = 0; at < request_.declared.size(); ++at) {
      const auto& parameters = decoded_.header.inputs(static_cast<int>(at)).parameters();
      places_.emplace_back();
      if (parameters.empty()) continue;
      auto place = ReadRegionPlace(parameters, What(at));
      if (!place.ok()) return place.status();
      if (*place && decoded_.contents[at].has_value()) {
        return absl::InvalidArgumentError(
            absl::StrCat(What(at), " has contents beside shared memory region '",
                         Printable((*place)->region), "'; expected one or the other"));
      }
      if (*place) ++in_regions_;
      places_.back() = *std::move(place);
    }
    return absl::OkStatus();
  }

  // Raw contents are in the order of the inputs, without those in regions.
  absl::Status PlaceRaw() {
    const size_t expected = request_.declared.size() - in_regions_;
    for (size_t at = 0; at < request_.declared.size(); ++at) {
      if (!decoded_.contents[at].has_value()) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          What(at), " has contents beside raw_input_contents; expected one or the other"));
    }
    if (decoded_.raw.size() != expected) {
      return absl::InvalidArgumentError(absl::StrCat(
          label_, ": expected raw_input_contents for each of ", expected, " inputs",
          in_regions_ > 0 ? " that are not in shared memory" : "", ", got ", decoded_.raw.size()));
    }
    size_t next = 0;
    for (size_t at = 0; at < request_.declared.size(); ++at) {
      if (!places_[at]) request_.bytes[at] = std::move(decoded_.raw[next++]);
    }
    return absl::OkStatus();
  }

  absl::Status CheckRaw(size_t at, int64_t expected) const {
    const int64_t got = SizeOf(request_.bytes[at]);
    if (got == expected) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(What(at), " expects ", expected, WhatOf(at), ", got ", got));
  }

  absl::Status TakeRegion(size_t at, int64_t expected) {
    const RegionPlace& place = *places_[at];
    if (place.size_bytes != expected) {
      return absl::InvalidArgumentError(
          absl::StrCat(What(at), " expects ", expected, WhatOf(at), ", got ", place.size_bytes,
                       " in shared memory region '", Printable(place.region), "'"));
    }
    auto bytes = regions_.At(place, What(at));
    if (!bytes.ok()) return bytes.status();
    request_.bytes[at].device = *std::move(bytes);
    return absl::OkStatus();
  }

  // The input's bytes are then views of the converted bytes.
  absl::Status ConvertContents(size_t at, DType dtype, int64_t size_bytes) {
    const int64_t count = size_bytes / DTypeSize(dtype);
    if (!decoded_.contents[at].has_value() && count > 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          What(at), " has no data: expected raw_input_contents, or contents in every input"));
    }
    auto bytes = DecodeContents(decoded_.contents[at].value_or(InputBytes()), dtype, count,
                                absl::StrCat(What(at), " of ", request_.declared[at].datatype,
                                             ShapeString(request_.declared[at].shape)));
    if (!bytes.ok()) return bytes.status();
    if (converted_ == nullptr) converted_ = std::make_shared<std::vector<std::vector<std::byte>>>();
    converted_->push_back(*std::move(bytes));
    request_.bytes[at].pieces.emplace_back(converted_->back());
    return absl::OkStatus();
  }

  const std::string& label_;
  const SharedMemoryRegions& regions_;
  DecodedInfer& decoded_;
  const Signature& signature_;
  InferRequest& request_;
  std::vector<std::optional<RegionPlace>> places_;  // by declared input
  size_t in_regions_ = 0;
  std::shared_ptr<std::vector<std::vector<std::byte>>> converted_;
};

// Bytes of `rows` rows; none where that depends on the input.
std::optional<int64_t> OutputBytes(const TensorSpec& spec, int64_t rows) {
  int64_t bytes = 0;
  if (__builtin_mul_overflow(DTypeSize(spec.dtype), rows, &bytes)) return std::nullopt;
  for (const int64_t dim : spec.dims) {
    if (dim < 0 || __builtin_mul_overflow(bytes, dim, &bytes)) return std::nullopt;
  }
  return bytes;
}

// Resolves where the outputs go; SelectOutputs has found them all.
absl::Status TakeTargets(const std::string& label, const inference::ModelInferRequest& header,
                         const SharedMemoryRegions& regions, const Signature& signature,
                         InferRequest* request, AnswerFormat* format) {
  for (const auto& output : header.outputs()) {
    if (output.parameters().empty()) continue;
    const std::string what = absl::StrCat(label, ": output '", output.name(), "'");
    auto read = ReadRegionPlace(output.parameters(), what);
    if (!read.ok()) return read.status();
    if (!*read) continue;
    RegionPlace place = **std::move(read);
    const auto spec =
        std::find_if(signature.outputs.begin(), signature.outputs.end(),
                     [&](const TensorSpec& candidate) { return candidate.name == output.name(); });
    // All that is given has to be in the region, also what is not needed.
    auto target = regions.At(place, what);
    if (!target.ok()) return target.status();
    if (const auto size = OutputBytes(*spec, request->checked.rows)) {
      if (place.size_bytes < *size) {
        return absl::InvalidArgumentError(absl::StrCat(
            what, " of ", request->checked.rows, " rows takes ", *size, " bytes, got ",
            place.size_bytes, " in shared memory region '", Printable(place.region), "'"));
      }
      target->size_bytes = *size;
    }
    request->output_targets[output.name()] = *std::move(target);
    format->places[output.name()] = std::move(place);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PreparedInfer> PrepareInfer(DecodedInfer decoded, std::shared_ptr<void> wire,
                                           std::shared_ptr<const ModelVersion> version,
                                           const SharedMemoryRegions& regions, TimePoint arrival,
                                           TimePoint deadline) {
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
      CheckInputs(label, version->signature, version->max_batch_rows(), request.declared);
  if (!checked.ok()) return checked.status();
  request.checked = *std::move(checked);

  InputBytesTaker inputs(label, regions, &decoded, version->signature, &request);
  absl::Status taken = inputs.Take();
  if (taken.ok()) taken = CheckElements(*version, request);
  if (!taken.ok()) return taken;
  request.wire = decoded.raw.empty() ? inputs.converted() : std::move(wire);

  AnswerFormat& format = prepared.format;
  for (const auto& output : header.outputs()) format.outputs.push_back(output.name());
  // Found out now rather than after the work; checked again in the version that answers.
  const auto selected = SelectOutputs(label, version->signature, format.outputs);
  if (!selected.ok()) return selected.status();
  absl::Status targets = TakeTargets(label, header, regions, version->signature, &request, &format);
  if (!targets.ok()) return targets;
  format.id = std::move(*header.mutable_id());
  format.raw = parameters->binary_output.value_or(inputs.raw());
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
