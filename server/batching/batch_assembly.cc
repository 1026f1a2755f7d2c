#include "server/batching/batch_assembly.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <utility>

#include "server/base/dtype.h"
#include "server/batching/ragged_rows.h"
#include "server/batching/request_check.h"
#include "server/registry/tensor_fill.h"

namespace sconce {
namespace {

// `dims` with `sizes` in the places of -1.
std::vector<int64_t> WithSizes(std::vector<int64_t> dims, absl::Span<const int64_t> sizes) {
  size_t next = 0;
  for (int64_t& dim : dims) {
    if (dim == -1 && next < sizes.size()) dim = sizes[next++];
  }
  return dims;
}

int64_t BytesOf(DType dtype, absl::Span<const int64_t> shape) {
  int64_t bytes = DTypeSize(dtype);
  for (const int64_t size : shape) bytes *= size;
  return bytes;
}

// An input's dimensions in the request, without the batch dimension; those of the first where it is
// left out.
absl::Span<const int64_t> DimsOf(const Signature& signature, const InferRequest& request,
                                 size_t input) {
  size_t position = request.checked.position[input];
  if (position == CheckedInputs::kAbsent) position = request.checked.position[0];
  const std::vector<int64_t>& shape = request.declared[position].shape;
  return absl::MakeConstSpan(shape).subspan(signature.rows.batched ? 1 : 0);
}

// The same in the batch.
std::vector<int64_t> BatchDims(const Signature& signature, absl::Span<const InferRequest> requests,
                               const BatchLayout& layout, size_t input) {
  const TensorSpec& spec = signature.inputs[input];
  if (!layout.open_sizes.empty() && spec.rules.padding.has_value()) {
    return WithSizes(spec.dims, layout.open_sizes);
  }
  const auto dims = DimsOf(signature, requests.front(), input);
  return {dims.begin(), dims.end()};
}

std::vector<int64_t> WithRows(int64_t rows, absl::Span<const int64_t> dims) {
  std::vector<int64_t> shape = {rows};
  shape.insert(shape.end(), dims.begin(), dims.end());
  return shape;
}

// Rows of one request in an input of which some are left out or smaller.
class RaggedInput {
 public:
  RaggedInput(const TensorSpec& spec, size_t input, absl::Span<const int64_t> dims,
              BatchInput* batch)
      : spec_(spec), input_(input), dims_(dims), batch_(*batch) {}

  // Into `to`, which has the size of the rows in the batch and lies at `offset_bytes` there.
  void Add(const InferRequest& request, absl::Span<const int64_t> own, absl::Span<std::byte> to,
           int64_t offset_bytes) const {
    const size_t position = request.checked.position[input_];
    const bool fills = own != dims_;
    if (fills) FillElements(spec_.dtype, spec_.rules.padding.value_or(0), to);
    const std::vector<int64_t> shape = WithRows(request.checked.rows, own);
    if (position == CheckedInputs::kAbsent) {
      std::vector<std::byte> absent(static_cast<size_t>(BytesOf(spec_.dtype, shape)));
      FillElements(spec_.dtype, spec_.rules.absent.value_or(0), absl::MakeSpan(absent));
      const absl::Span<const std::byte> piece = absent;
      Copy({&piece, 1}, shape, to);
    } else if (const auto& device = request.bytes[position].device; device.has_value()) {
      batch_.from_device.push_back({input_, offset_bytes, *device});
    } else {
      Copy(request.bytes[position].pieces, shape, to);
    }
  }

 private:
  void Copy(absl::Span<const absl::Span<const std::byte>> pieces, absl::Span<const int64_t> shape,
            absl::Span<std::byte> to) const {
    LayInto(pieces, shape, WithRows(shape[0], dims_), DTypeSize(spec_.dtype), to.data());
  }

  const TensorSpec& spec_;
  const size_t input_;
  const absl::Span<const int64_t> dims_;
  BatchInput& batch_;
};

void AssembleRagged(const Signature& signature, absl::Span<const InferRequest> requests,
                    size_t input, absl::Span<const int64_t> dims, BatchInput* batch) {
  const TensorSpec& spec = signature.inputs[input];
  const RaggedInput ragged(spec, input, dims, batch);
  const int64_t row_bytes = BytesOf(spec.dtype, dims);
  const absl::Span<std::byte> bytes = batch->inputs[input].bytes;
  int64_t at = 0;
  for (const InferRequest& request : requests) {
    const int64_t size = request.checked.rows * row_bytes;
    ragged.Add(request, DimsOf(signature, request, input), bytes.subspan(at, size), at);
    at += size;
  }
}

}  // namespace

BatchLayout LayOut(const ModelVersion& version, absl::Span<const InferRequest> requests,
                   int64_t rows) {
  BatchLayout layout{.rows = rows,
                     .filled_rows = std::max(rows, version.signature.rows.rows.minimum)};
  for (const InferRequest& request : requests) {
    layout.ragged =
        layout.ragged || std::count(request.checked.position.begin(),
                                    request.checked.position.end(), CheckedInputs::kAbsent) > 0;
  }
  const std::vector<int64_t>& first = requests.front().open_sizes;
  if (first.empty()) return layout;
  layout.open_sizes = first;
  for (const InferRequest& request : requests) {
    layout.ragged = layout.ragged || request.open_sizes != first;
    for (size_t d = 0; d < first.size(); ++d) {
      layout.open_sizes[d] = std::max(layout.open_sizes[d], request.open_sizes[d]);
    }
  }
  return layout;
}

std::vector<int64_t> InputSizes(const ModelVersion& version,
                                absl::Span<const InferRequest> requests,
                                const BatchLayout& layout) {
  const Signature& signature = version.signature;
  std::vector<int64_t> size_bytes(signature.inputs.size(), 0);
  if (layout.ragged || layout.filled_rows != layout.rows) {
    for (size_t i = 0; i < size_bytes.size(); ++i) {
      size_bytes[i] = layout.filled_rows *
                      BytesOf(signature.inputs[i].dtype, BatchDims(signature, requests, layout, i));
    }
    return size_bytes;
  }
  for (const InferRequest& request : requests) {
    for (size_t i = 0; i < size_bytes.size(); ++i) size_bytes[i] += request.checked.size_bytes[i];
  }
  return size_bytes;
}

BatchInput AssembleBatch(const ModelVersion& version, absl::Span<const InferRequest> requests,
                         const BatchLayout& layout, std::vector<HostTensor> staged) {
  const Signature& signature = version.signature;
  BatchInput batch;
  batch.inputs = std::move(staged);
  const InferRequest& any = requests.front();
  for (size_t i = 0; i < batch.inputs.size(); ++i) {
    const TensorSpec& spec = signature.inputs[i];
    HostTensor& input = batch.inputs[i];
    input.dtype = spec.dtype;
    if (layout.ragged) {
      const std::vector<int64_t> dims = BatchDims(signature, requests, layout, i);
      input.shape = signature.rows.batched ? WithRows(layout.filled_rows, dims) : dims;
      AssembleRagged(signature, requests, i, dims, &batch);
    } else {
      input.shape = any.declared[any.checked.position[i]].shape;
      if (signature.rows.batched) input.shape[0] = layout.filled_rows;
      AssembleInput(requests, i, input.bytes, &batch.from_device);
    }
    if (layout.filled_rows != layout.rows) {
      const size_t row_bytes = input.bytes.size() / static_cast<size_t>(layout.filled_rows);
      FillElements(spec.dtype, models::FillerOf(spec.rules),
                   input.bytes.subspan(row_bytes * static_cast<size_t>(layout.rows)));
    }
  }
  int64_t first = 0;
  for (const InferRequest& request : requests) {
    for (const auto& [name, target] : request.output_targets) {
      const int64_t rows =
          signature.rows.batched ? request.checked.rows : BatchInput::ToDevice::kWhole;
      batch.to_device.push_back({OutputOf(signature, name), first, rows, target});
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

std::vector<HostTensor> AnswerOf(const Signature& signature, const BatchLayout& layout,
                                 absl::Span<const HostTensor> outputs, int64_t first,
                                 const InferRequest& request) {
  if (!signature.rows.batched) return {outputs.begin(), outputs.end()};
  std::vector<HostTensor> rows = SliceRows(outputs, first, request.checked.rows);
  if (request.open_sizes == layout.open_sizes) return rows;
  for (size_t i = 0; i < rows.size(); ++i) {
    const TensorSpec& spec = signature.outputs[i];
    if (!spec.rules.padding.has_value()) continue;
    HostTensor& padded = rows[i];
    HostTensor own;
    own.dtype = padded.dtype;
    own.shape = WithRows(request.checked.rows, WithSizes(spec.dims, request.open_sizes));
    auto memory = std::make_shared<std::vector<std::byte>>(
        static_cast<size_t>(BytesOf(own.dtype, own.shape)));
    CutOut(padded.bytes.data(), padded.shape, own.shape, DTypeSize(own.dtype), memory->data());
    own.bytes = absl::MakeSpan(*memory);
    own.owner = std::move(memory);
    padded = std::move(own);
  }
  return rows;
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
