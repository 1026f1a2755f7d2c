#include "server/batching/batch_assembly.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/dtype.h"
#include "server/base/printable.h"

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

size_t OutputOf(const Signature& signature, const std::string& name) {
  const auto found = std::find_if(signature.outputs.begin(), signature.outputs.end(),
                                  [&](const TensorSpec& spec) { return spec.name == name; });
  return static_cast<size_t>(found - signature.outputs.begin());
}

}  // namespace

std::string ShapeKey(const InferRequest& request) {
  std::string key;
  for (const size_t position : request.checked.position) {
    const std::vector<int64_t>& shape = request.declared[position].shape;
    // Ranks are the signature's, so the concatenation is unambiguous.
    key.append(reinterpret_cast<const char*>(shape.data() + 1),
               (shape.size() - 1) * sizeof(int64_t));
  }
  return key;
}

absl::Status CheckDeviceBytes(const ModelVersion& version, const InferRequest& request) {
  const Signature& signature = version.signature;
  for (size_t i = 0; i < signature.inputs.size(); ++i) {
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
  if (version.signature == before.signature &&
      version.config.max_batch_size >= request->checked.rows) {
    return absl::OkStatus();
  }
  auto checked = CheckInputs(version.Label(), version.signature, version.config.max_batch_size,
                             request->declared);
  if (!checked.ok()) return checked.status();
  request->checked = *std::move(checked);
  if (std::string key = ShapeKey(*request); key != request->shape_key) {
    // The inputs changed their order: the batch this request was chosen for is not of its shape.
    request->shape_key = std::move(key);
    return absl::UnavailableError(
        absl::StrCat(version.Label(), ": the inputs changed while the request waited; try again"));
  }
  return absl::OkStatus();
}

std::vector<int64_t> InputSizes(const ModelVersion& version,
                                absl::Span<const InferRequest> requests) {
  std::vector<int64_t> size_bytes(version.signature.inputs.size(), 0);
  for (const InferRequest& request : requests) {
    for (size_t i = 0; i < size_bytes.size(); ++i) size_bytes[i] += request.checked.size_bytes[i];
  }
  return size_bytes;
}

BatchInput AssembleBatch(const ModelVersion& version, absl::Span<const InferRequest> requests,
                         int64_t rows, std::vector<HostTensor> staged) {
  BatchInput batch;
  batch.inputs = std::move(staged);
  const InferRequest& any = requests.front();
  for (size_t i = 0; i < batch.inputs.size(); ++i) {
    HostTensor& input = batch.inputs[i];
    input.dtype = version.signature.inputs[i].dtype;
    input.shape = any.declared[any.checked.position[i]].shape;
    input.shape[0] = rows;
    AssembleInput(requests, i, input.bytes, &batch.from_device);
  }
  int64_t first = 0;
  for (const InferRequest& request : requests) {
    for (const auto& [name, target] : request.output_targets) {
      batch.to_device.push_back(
          {OutputOf(version.signature, name), first, request.checked.rows, target});
    }
    first += request.checked.rows;
  }
  return batch;
}

void AssembleInput(absl::Span<const InferRequest> requests, size_t input,
                   absl::Span<std::byte> batch, std::vector<BatchInput::FromDevice>* from_device) {
  std::byte* to = batch.data();
  for (const InferRequest& request : requests) {
    const InputBytes& bytes = request.bytes[request.checked.position[input]];
    if (bytes.device.has_value()) {
      from_device->push_back({input, to - batch.data(), *bytes.device});
      to += request.checked.size_bytes[input];
      continue;
    }
    for (const auto& piece : bytes.pieces) {
      std::memcpy(to, piece.data(), piece.size());
      to += piece.size();
    }
  }
}

std::vector<HostTensor> SliceRows(absl::Span<const HostTensor> outputs, int64_t first,
                                  int64_t rows) {
  std::vector<HostTensor> slices;
  slices.reserve(outputs.size());
  for (const HostTensor& output : outputs) {
    const auto row_bytes = output.bytes.size() / static_cast<size_t>(output.shape[0]);
    HostTensor slice{output.dtype, output.shape,
                     output.bytes.subspan(first * row_bytes, rows * row_bytes), output.owner};
    slice.shape[0] = rows;
    slices.push_back(std::move(slice));
  }
  return slices;
}

}  // namespace sconce
