// Densify: what torch's to_dense() makes of a sparse tensor's parts. Internal to dense_read.cc.
#ifndef SCONCE_SERVER_CHECKPOINT_DATA_DENSIFY_H_
#define SCONCE_SERVER_CHECKPOINT_DATA_DENSIFY_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/checkpoint/checkpoint.h"

namespace sconce {

// `compressed_indices` is empty for kCoo. Every index is checked: one outside the tensor, and
// compressed indices that do not rise from 0 to the number of elements, are errors. Elements that
// are given several times, as those of an uncoalesced tensor may be, are added up.
// REQUIRES: CheckSparseShapes(tensor) is OK, all parts are contiguous, and `destination` has the
// size of the tensor.
absl::Status Densify(const TensorDescriptor& tensor, absl::Span<const int64_t> compressed_indices,
                     absl::Span<const int64_t> indices, absl::Span<const std::byte> values,
                     absl::Span<std::byte> destination);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_DATA_DENSIFY_H_
