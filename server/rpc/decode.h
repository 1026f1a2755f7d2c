// A ModelInferRequest taken apart where it lies: the small fields go through the generated class,
// tensor data stays where the wire put it, as views.
//
// Pure functions of hostile bytes: what is allocated is bounded by what is there, and nothing reads
// past the end. Callable from any thread.

#ifndef SCONCE_SERVER_RPC_DECODE_H_
#define SCONCE_SERVER_RPC_DECODE_H_

#include <cstddef>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/open_inference.pb.h"
#include "server/batching/request.h"
#include "server/rpc/wire_reader.h"

namespace sconce {

// Tensors in one direction of one request, and bytes of everything that is not tensor data.
inline constexpr size_t kMaxTensors = 256;
inline constexpr size_t kMaxHeaderBytes = size_t{1} << 20;

struct DecodedInfer {
  // Everything but `contents` and `raw_input_contents`.
  inference::ModelInferRequest header;
  // The entries of raw_input_contents.
  std::vector<InputBytes> raw;
  // For each input its `contents` message, not parsed yet; none where it is unset.
  std::vector<std::optional<InputBytes>> contents;
};

// INVALID_ARGUMENT where the bytes are no such message or break one of the limits above.
absl::StatusOr<DecodedInfer> DecodeInfer(absl::Span<const Piece> wire);

}  // namespace sconce

#endif  // SCONCE_SERVER_RPC_DECODE_H_
