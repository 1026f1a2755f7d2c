// From a decoded request to one that the batching takes: parameters, datatypes, shapes and sizes
// are checked against the version that answers now, typed contents become bytes, names of regions
// become their memory. Callable from any thread.

#ifndef SCONCE_SERVER_RPC_PREPARE_H_
#define SCONCE_SERVER_RPC_PREPARE_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "server/base/clock.h"
#include "server/batching/request.h"
#include "server/rpc/decode.h"
#include "server/rpc/encode.h"
#include "server/rpc/shared_memory_regions.h"

namespace sconce {

struct PreparedInfer {
  // All but `wanted_version`, `cancelled` and `done`.
  InferRequest request;
  AnswerFormat format;
};

// `wire` keeps the memory alive in which the decoded request's views lie. `deadline` is the call's
// own; the request's "timeout" parameter can only bring it nearer, and where neither is given the
// model's default_timeout counts.
// INVALID_ARGUMENT or UNIMPLEMENTED otherwise, and what SharedMemoryRegions::At says; the message
// begins with "model/version: ".
absl::StatusOr<PreparedInfer> PrepareInfer(DecodedInfer decoded, std::shared_ptr<void> wire,
                                           std::shared_ptr<const ModelVersion> version,
                                           const SharedMemoryRegions& regions, TimePoint arrival,
                                           TimePoint deadline);

}  // namespace sconce

#endif  // SCONCE_SERVER_RPC_PREPARE_H_
