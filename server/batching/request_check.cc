#include "server/batching/request_check.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/dtype.h"
#include "server/base/printable.h"
#include "server/registry/signature_rules.h"

namespace sconce {
namespace {

// Bytes of `rows` rows; none where they depend on what the network computes.
std::optional<int64_t> SizeOfRows(const TensorSpec& spec, int64_t rows) {
  int64_t size = rows * DTypeSize(spec.dtype);
  for (const int64_t dim : spec.dims) {
    if (dim < 0 || __builtin_mul_overflow(size, dim, &size)) return std::nullopt;
  }
  return size;
}

// Whether what is filled up or cut lies in the host's memory.
bool CanBePadded(const Signature& signature, const InferRequest& request) {
  for (size_t i = 0; i < signature.inputs.size(); ++i) {
    const size_t position = request.checked.position[i];
    if (position != CheckedInputs::kAbsent && signature.inputs[i].FollowsFirst() &&
        request.bytes[position].device.has_value()) {
      return false;
    }
  }
  return std::none_of(
      signature.outputs.begin(), signature.outputs.end(), [&](const TensorSpec& spec) {
        return spec.rules.padding.has_value() && request.output_targets.count(spec.name) > 0;
      });
}

void AppendSize(int64_t size, std::string* key) {
  key->append(reinterpret_cast<const char*>(&size), sizeof size);
}

}  // namespace

size_t OutputOf(const Signature& signature, const std::string& name) {
  const auto found = std::find_if(signature.outputs.begin(), signature.outputs.end(),
                                  [&](const TensorSpec& spec) { return spec.name == name; });
  return static_cast<size_t>(found - signature.outputs.begin());
}

absl::Status CheckElements(const ModelVersion& version, const InferRequest& request) {
  const std::vector<TensorSpec>& inputs = version.signature.inputs;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].rules.values.has_value()) continue;
    const size_t position = request.checked.position[i];
    if (position == CheckedInputs::kAbsent) continue;
    const InputBytes& bytes = request.bytes[position];
    if (bytes.device.has_value()) {
      return absl::InvalidArgumentError(
          absl::StrCat(version.Label(), ": input '", inputs[i].name, "' expects values ",
                       inputs[i].rules.values->minimum, " to ", inputs[i].rules.values->maximum,
                       ", which cannot be checked in a device's memory; expected it in the "
                       "request, got it in shared memory"));
    }
    absl::Status status =
        CheckValues(version.Label(), inputs[i], request.declared[position].shape, bytes.pieces);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

void SetShape(const Signature& signature, InferRequest* request) {
  std::string& key = request->shape_key;
  key.clear();
  request->open_sizes.clear();
  const size_t rows = signature.rows.batched ? 1 : 0;
  // Ranks are the signature's, so that the concatenation is unambiguous.
  for (size_t i = 0; i < signature.inputs.size(); ++i) {
    const TensorSpec& spec = signature.inputs[i];
    if (i > 0 && spec.FollowsFirst()) continue;
    const std::vector<int64_t>& shape = request->declared[request->checked.position[i]].shape;
    if (i > 0 || !spec.rules.padding.has_value() || !CanBePadded(signature, *request)) {
      key.append(reinterpret_cast<const char*>(shape.data() + rows),
                 (shape.size() - rows) * sizeof(int64_t));
      continue;
    }
    request->open_sizes = OpenSizes(signature, shape);
    for (const int64_t dim : spec.dims) AppendSize(dim, &key);
  }
}

absl::Status CheckDeviceBytes(const ModelVersion& version, const InferRequest& request) {
  const Signature& signature = version.signature;
  for (size_t i = 0; i < signature.inputs.size(); ++i) {
    if (request.checked.position[i] == CheckedInputs::kAbsent) continue;
    const auto& source = request.bytes[request.checked.position[i]].device;
    if (source.has_value() && source->size_bytes != request.checked.size_bytes[i]) {
      return absl::InvalidArgumentError(absl::StrCat(
          version.Label(), ": input '", signature.inputs[i].name, "' expects ",
          request.checked.size_bytes[i], " bytes in device memory, got ", source->size_bytes));
    }
  }
  for (const auto& [name, target] : request.output_targets) {
    const size_t output = OutputOf(signature, name);
    if (output == signature.outputs.size()) {
      return absl::InvalidArgumentError(absl::StrCat(version.Label(), ": has no output '",
                                                     Printable(name),
                                                     "', which is to be written to device memory"));
    }
    const auto size = SizeOfRows(signature.outputs[output], request.checked.rows);
    if (size.has_value() && *size != target.size_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(version.Label(), ": output '", name, "' of ", request.checked.rows,
                       " rows has ", *size, " bytes, got device memory of ", target.size_bytes));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckAgainst(const ModelVersion& version, InferRequest* request) {
  if (request->checked_against.get() == &version) return absl::OkStatus();
  const ModelVersion& before = *request->checked_against;
  if (version.signature == before.signature && version.max_batch_rows() >= request->checked.rows) {
    return absl::OkStatus();
  }
  auto checked =
      CheckInputs(version.Label(), version.signature, version.max_batch_rows(), request->declared);
  if (!checked.ok()) return checked.status();
  request->checked = *std::move(checked);
  if (absl::Status values = CheckElements(version, *request); !values.ok()) return values;
  const std::string key = std::move(request->shape_key);
  SetShape(version.signature, request);
  if (key != request->shape_key) {
    // The inputs changed their order: the batch this request was chosen for is not of its shape.
    return absl::UnavailableError(
        absl::StrCat(version.Label(), ": the inputs changed while the request waited; try again"));
  }
  return absl::OkStatus();
}

}  // namespace sconce
