// The parameters a client may put on a request, its inputs and its outputs: those the protocol
// reserves are honoured or refused, others are the client's own and pass. Pure; callable from any
// thread.

#ifndef SCONCE_SERVER_RPC_PARAMETERS_H_
#define SCONCE_SERVER_RPC_PARAMETERS_H_

#include <chrono>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "proto/open_inference.pb.h"
#include "server/rpc/shared_memory_regions.h"

namespace sconce {

struct InferParameters {
  // "timeout": the time the client gives the request from its arrival on.
  std::optional<std::chrono::microseconds> timeout;
  // "binary_data_output": answer with raw contents or with typed ones, however the request came.
  std::optional<bool> binary_output;
  // "triton_enable_empty_final_response": mark the one response as the final one.
  bool mark_final = false;
};

// Besides the above: "priority" is accepted and changes nothing, because there is one queue;
// "sequence_id", "sequence_start" and "sequence_end" likewise, because models keep no state.
// INVALID_ARGUMENT for a known parameter of the wrong type and for unknown ones of the reserved
// prefix "triton_"; UNIMPLEMENTED for classification.
absl::StatusOr<InferParameters> ReadParameters(const inference::ModelInferRequest& request);

// "shared_memory_region", "shared_memory_byte_size" and "shared_memory_offset" (0 where it is not
// given) of one input or output; none where it has none of them. INVALID_ARGUMENT, beginning with
// `what`, for a wrong type, a negative number, or a part that is missing.
absl::StatusOr<std::optional<RegionPlace>> ReadRegionPlace(
    const google::protobuf::Map<std::string, inference::InferParameter>& parameters,
    const std::string& what);

}  // namespace sconce

#endif  // SCONCE_SERVER_RPC_PARAMETERS_H_
