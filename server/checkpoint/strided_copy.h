// CopyStrided: brings a tensor that lies in a file, at any strides, into contiguous memory.
//
// What is contiguous in the file is read straight to its place; the rest goes through a staging
// window of bounded size that passes over the storage once, front to back, while its elements are
// scattered to where they belong.
#ifndef SCONCE_SERVER_CHECKPOINT_STRIDED_COPY_H_
#define SCONCE_SERVER_CHECKPOINT_STRIDED_COPY_H_

#include <cstddef>
#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/checkpoint/checkpoint.h"

namespace sconce {

// Fills all of `out` with the storage's bytes from `offset` on.
using ReadStorage = std::function<absl::Status(int64_t offset, absl::Span<std::byte> out)>;

// REQUIRES: CheckTensorBounds(tensor, size of the storage) is OK, destination.size() is
// tensor.size_bytes().
absl::Status CopyStrided(const TensorDescriptor& tensor, const ReadStorage& read,
                         absl::Span<std::byte> destination);

// Applies the conjugate and negative bits to the elements in `contiguous`; an error for types that
// cannot be negated.
absl::Status ResolveBits(const TensorDescriptor& tensor, absl::Span<std::byte> contiguous);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_STRIDED_COPY_H_
