// ResolveBits: PyTorch saves a conjugated or negated view as the bytes it is a view of, and a bit
// that says what they stand for; and numbers in the order of bytes of the machine it runs on.
#ifndef SCONCE_SERVER_CHECKPOINT_DATA_RESOLVE_BITS_H_
#define SCONCE_SERVER_CHECKPOINT_DATA_RESOLVE_BITS_H_

#include <cstddef>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/checkpoint/checkpoint.h"

namespace sconce {

// Applies the tensor's order of bytes and its conjugate and negative bits to the elements in
// `contiguous`, which are all or some of its own; an error for types that cannot be negated.
absl::Status ResolveBits(const TensorDescriptor& tensor, absl::Span<std::byte> contiguous);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_DATA_RESOLVE_BITS_H_
