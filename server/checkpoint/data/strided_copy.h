// Brings elements that lie in a file, at any strides, into memory.
//
// What is contiguous in the file is read straight to its place. The rest goes through a staging
// buffer of at most kStagingBytes that passes over the storage front to back; where the order of
// the dimensions in the file is not the one in memory, through blocks of both, so that neither side
// is touched a few bytes at a time. Pure functions, callable from any thread.
#ifndef SCONCE_SERVER_CHECKPOINT_DATA_STRIDED_COPY_H_
#define SCONCE_SERVER_CHECKPOINT_DATA_STRIDED_COPY_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/checkpoint/checkpoint.h"

namespace sconce {

// The most memory that one copy takes beside its destination.
inline constexpr int64_t kStagingBytes = int64_t{2} << 20;

// Fills all of `out` with the storage's bytes from `offset` on.
using ReadStorage = std::function<absl::Status(int64_t offset, absl::Span<std::byte> out)>;

// A box of elements: where they lie in a storage, and where they go. Offsets and strides count
// elements.
struct StridedBox {
  int64_t element_bytes = 1;
  std::vector<int64_t> shape;
  int64_t source_offset = 0;
  std::vector<int64_t> source_strides;  // 0 or more
  int64_t destination_offset = 0;
  std::vector<int64_t> destination_strides;
};

// REQUIRES: every element lies inside the storage and inside `destination`, and no two of them at
// the same place of the destination.
absl::Status CopyBox(const StridedBox& box, const ReadStorage& read,
                     absl::Span<std::byte> destination);

// The part of a tensor that begins at `position`.
struct TensorBox {
  std::vector<int64_t> position;
  std::vector<int64_t> shape;
};

// The boxes that together are the `count` elements from number `first` on, counted row-major, in
// that order: at most 2 * rank - 1 (one for a scalar), each a contiguous run of the tensor's
// row-major form. REQUIRES: 0 <= first, first + count <= the number of elements.
std::vector<TensorBox> BoxesOfRange(absl::Span<const int64_t> shape, int64_t first, int64_t count);

// Fills `destination` with the tensor's bytes from `offset_bytes` on, laid out row-major.
// REQUIRES: CheckTensorBounds(tensor, size of the storage) is OK; the range is of whole elements
// and inside the tensor.
absl::Status CopyRange(const TensorDescriptor& tensor, int64_t offset_bytes,
                       const ReadStorage& read, absl::Span<std::byte> destination);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_DATA_STRIDED_COPY_H_
