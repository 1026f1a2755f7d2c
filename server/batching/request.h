// What the batching takes and gives: one client's rows, with views of the bytes as they came off
// the wire, and the answer cut out of a batch. Value types, moved from thread to thread.

#ifndef SCONCE_SERVER_BATCHING_REQUEST_H_
#define SCONCE_SERVER_BATCHING_REQUEST_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/clock.h"
#include "server/device/replica.h"
#include "server/registry/model_version.h"

namespace sconce {

// An input's bytes, in the pieces the wire brought; the sum of the sizes has been checked.
struct InputBytes {
  std::vector<absl::Span<const std::byte>> pieces;
  // Set: the bytes lie in a device's memory, and there are no pieces.
  std::optional<DeviceBytes> device = std::nullopt;
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
  // Where outputs, by name, are written beside being answered. A name that the version does not
  // have, or a size that is not that of the rows, fails the request with INVALID_ARGUMENT.
  std::map<std::string, DeviceBytes> output_targets;
  // Keeps `bytes` alive until the request is answered: a batch may have to be run again.
  std::shared_ptr<void> wire;

  // The version against whose signature `checked` was made; a batch of another version checks
  // again.
  std::shared_ptr<const ModelVersion> checked_against;
  CheckedInputs checked;

  // With which others it may share a batch (SetShape); set by Batcher::Submit.
  std::string shape_key;
  std::vector<int64_t> open_sizes;

  // 0: whatever version answers when the batch is formed. Else that one alone does.
  int64_t wanted_version = 0;

  // Times a batch with this request was lost with its device; set by Batcher.
  int lost_batches = 0;

  TimePoint arrival{};
  TimePoint deadline = TimePoint::max();
  // Set by the caller when the client went away; null if that cannot happen.
  std::shared_ptr<std::atomic<bool>> cancelled;

  // Called exactly once, on an executor thread or the submitting one.
  std::function<void(absl::StatusOr<InferResponse>)> done;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_REQUEST_H_
