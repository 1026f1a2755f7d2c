// Rows of different sizes in one batch: each is laid into the place of the largest, and its results
// are cut out of what the network made of it. Pure functions.

#ifndef SCONCE_SERVER_BATCHING_RAGGED_ROWS_H_
#define SCONCE_SERVER_BATCHING_RAGGED_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace sconce {

// Copies a tensor of `shape`, whose bytes are `pieces` one after the other, to the beginning of
// each dimension of a tensor of shape `place` at `to`; what lies beside it stays as it is.
// REQUIRES: as many dimensions, none larger than the place's.
void LayInto(absl::Span<const absl::Span<const std::byte>> pieces, absl::Span<const int64_t> shape,
             absl::Span<const int64_t> place, int64_t element_bytes, std::byte* to);

// The other way round: the beginning of each dimension of the tensor of shape `place` at `from`
// becomes a tensor of `shape` at `to`.
void CutOut(const std::byte* from, absl::Span<const int64_t> place, absl::Span<const int64_t> shape,
            int64_t element_bytes, std::byte* to);

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_RAGGED_ROWS_H_
