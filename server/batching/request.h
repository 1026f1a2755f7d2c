// What the batching takes and gives: one client's rows, with views of the bytes as they came off
// the wire, and the answer cut out of a batch. Value types, moved from thread to thread.

#ifndef SCONCE_SERVER_BATCHING_REQUEST_H_
#define SCONCE_SERVER_BATCHING_REQUEST_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/clock.h"
#include "server/registry/model_version.h"
#include "server/device/replica.h"

namespace sconce {

// An input's bytes, in the pieces the wire brought; the sum of the sizes has been checked.
struct InputBytes {
  std::vector<absl::Span<const std::byte>> pieces;
};

struct InferResponse {
  // The one version that computed every row.
  std::shared_ptr<const ModelVersion> version;
  // In the order of the version's signature; this request's rows alone.
  std::vector<HostTensor> outputs;
};

struct InferRequest {
  // In the order the client declared them, with the bytes of each.
  std::vector<DeclaredInput> declared;
  std::vector<InputBytes> bytes;
  // Keeps `bytes` alive until the batch has been assembled.
  std::shared_ptr<void> wire;

  // The version against whose signature `checked` was made; a batch of another version checks again.
  std::shared_ptr<const ModelVersion> checked_against;
  CheckedInputs checked;

  // ShapeKey of this request; set by Batcher::Submit.
  std::string shape_key;

  // 0: whatever version answers when the batch is formed.
  int64_t wanted_version = 0;

  TimePoint arrival{};
  TimePoint deadline = TimePoint::max();
  // Set by the caller when the client went away; null if that cannot happen.
  std::shared_ptr<std::atomic<bool>> cancelled;

  // Called exactly once, on an executor thread or the submitting one.
  std::function<void(absl::StatusOr<InferResponse>)> done;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_REQUEST_H_
