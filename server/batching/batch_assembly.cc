#include "server/batching/batch_assembly.h"

#include <cstring>

namespace sconce {

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

std::vector<int64_t> BatchShape(const InferRequest& any, size_t input, int64_t rows) {
  std::vector<int64_t> shape = any.declared[any.checked.position[input]].shape;
  shape[0] = rows;
  return shape;
}

void AssembleInput(absl::Span<const InferRequest> requests, size_t input,
                   absl::Span<std::byte> batch) {
  std::byte* to = batch.data();
  for (const InferRequest& request : requests) {
    for (const auto& piece : request.bytes[request.checked.position[input]].pieces) {
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
