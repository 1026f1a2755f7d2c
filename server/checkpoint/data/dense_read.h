// ReadDense: a tensor as plain numbers, whatever it is kept as. Quantised tensors are dequantised,
// sparse ones made dense; the values are bit for bit those of PyTorch's dequantize() and
// to_dense(). Any other tensor is read as ReadInto reads it.
//
// Callable from any thread.
#ifndef SCONCE_SERVER_CHECKPOINT_DATA_DENSE_READ_H_
#define SCONCE_SERVER_CHECKPOINT_DATA_DENSE_READ_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/dtype.h"
#include "server/checkpoint/checkpoint.h"

namespace sconce {

// What ReadDense writes: contiguous, row-major.
struct DenseForm {
  DType dtype = DType::kFloat32;  // kFloat32 for quantised tensors, else the tensor's own
  int64_t size_bytes = 0;
};

// An error where that exceeds `max_bytes`: a sparse tensor takes as few bytes in the file as it
// likes.
absl::StatusOr<DenseForm> DenseFormOf(const TensorDescriptor& tensor, int64_t max_bytes);

// Beside `destination`, a sparse tensor takes the memory of its indices and values, which is
// limited to `max_bytes` too; a quantised one that of its scales. REQUIRES: destination.size() is
// the size of the tensor's DenseForm.
absl::Status ReadDense(const Checkpoint& checkpoint, const TensorDescriptor& tensor,
                       int64_t max_bytes, absl::Span<std::byte> destination);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_DATA_DENSE_READ_H_
