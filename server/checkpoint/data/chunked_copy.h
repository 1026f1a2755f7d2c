// CopyChunks: puts together a part of a tensor that was saved in several blocks.
#ifndef SCONCE_SERVER_CHECKPOINT_DATA_CHUNKED_COPY_H_
#define SCONCE_SERVER_CHECKPOINT_DATA_CHUNKED_COPY_H_

#include <cstddef>
#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/checkpoint/checkpoint.h"

namespace sconce {

// Fills `out` with the bytes of a block, taken as a tensor of its own, from `offset_bytes` on.
using ReadBlock = std::function<absl::Status(const TensorDescriptor& block, int64_t offset_bytes,
                                             absl::Span<std::byte> out)>;

// Fills `destination` with the bytes of the contiguous tensor from `offset_bytes` on. Reads each
// byte once, and takes bounded memory beside the destination.
// REQUIRES: tensor.chunks is set and CheckChunks is OK; the range is whole elements of the tensor.
absl::Status CopyChunks(const TensorDescriptor& tensor, int64_t offset_bytes, const ReadBlock& read,
                        absl::Span<std::byte> destination);

// Whether the chunks, each of them inside the tensor, are disjoint and make up all of it.
// Work is in proportion to their number, since chunks that are cut all too irregularly are refused.
absl::Status CheckChunks(const TensorDescriptor& tensor);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_DATA_CHUNKED_COPY_H_
