// Whether a tensor's description makes sense: pure checks, applied to every tensor of every
// container before a byte of it is read or allocated.
#ifndef SCONCE_SERVER_CHECKPOINT_TENSOR_BOUNDS_H_
#define SCONCE_SERVER_CHECKPOINT_TENSOR_BOUNDS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/dtype.h"
#include "server/checkpoint/checkpoint.h"

namespace sconce {

// PyTorch itself stops at 64 dimensions.
inline constexpr size_t kMaxTensorRank = 64;

// A few bytes of a file can describe one more tensor that takes a kilobyte in memory. The largest
// models have some 100,000.
inline constexpr size_t kMaxTensorCount = size_t{1} << 20;

// A view may repeat its storage (stride 0): "1 element expanded to 10^12" takes 4 bytes in a file
// and 4 TB in memory. What a view may come to is this many times its storage's bytes, or
// kMaxExpandedBytes if that is more.
inline constexpr int64_t kMaxExpansion = 64;
inline constexpr int64_t kMaxExpandedBytes = int64_t{1} << 20;

// The product of the sizes; an error if one is negative or the product exceeds 64 bits.
absl::StatusOr<int64_t> CountElements(absl::Span<const int64_t> shape);

// Bytes of `count` elements; an error if that exceeds 64 bits.
absl::StatusOr<int64_t> CountBytes(int64_t count, DType dtype);

// Bytes of a tensor laid out contiguously, with the errors of both.
absl::StatusOr<int64_t> CountTensorBytes(absl::Span<const int64_t> shape, DType dtype);

// Row-major strides of a contiguous tensor. REQUIRES: CountElements(shape) is OK.
std::vector<int64_t> ContiguousStrides(absl::Span<const int64_t> shape);

// Whether the elements lie one after the other in row-major order; strides of dimensions of size 1
// say nothing. REQUIRES: as many strides as sizes.
bool IsContiguous(absl::Span<const int64_t> shape, absl::Span<const int64_t> strides);

// Checks rank, sizes, strides, offset, overflow, that every element lies inside a storage of
// `storage_bytes`, and that the view is no bomb.
absl::Status CheckTensorBounds(const TensorDescriptor& tensor, int64_t storage_bytes);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_TENSOR_BOUNDS_H_
