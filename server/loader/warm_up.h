// WarmUp: a replica proves, before it is published, that it runs. Zeros, or the nearest values that
// its inputs may have, go through it in every batch size it is prepared for, and in a small and a
// large size where a dimension is open and its sizes are bounded: the outputs are what the
// signature says, the memory that batches need is there and stays there, and what LibTorch and the
// device set up at a first run is set up.
//
// Called on the loading thread; other replicas of the device go on meanwhile.

#ifndef SCONCE_SERVER_LOADER_WARM_UP_H_
#define SCONCE_SERVER_LOADER_WARM_UP_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/device/execution/torch_replica.h"
#include "server/device/replica.h"
#include "server/registry/signature.h"

namespace sconce {

// How much of it the CPU does, where a first run costs little more than the next: every batch size
// that takes no more than a second.
struct CpuWarmUp {
  // Whether such a network has done that in this process. One row is then enough, and the largest
  // batch where that is cheap.
  bool known = false;
  // Called between two batch sizes, so that others may compute; null: nothing.
  std::function<void()> between = nullptr;
};

// Batches of 1, 2, 4, ... rows (of the fewest that the network takes, twice that, ...) up to
// `max_batch_size`, as many at a time as the replica holds. On a device the largest whose memory is
// there becomes the replica's max_rows(); graphs are captured up to that, unless a dimension is -1.
// `native`: the signature of the network, which says what a dimension of -1 may be.
//
// Gives what is worth a word in the log, such as why there are no graphs; empty: nothing.
// INVALID_ARGUMENT: the network does not run, or gives something else than `signature` says.
// RESOURCE_EXHAUSTED: there is no memory for one row, on the CPU for any size. UNAVAILABLE: the
// device is lost.
// REQUIRES: max_batch_size >= 1; the replica has not been shared.
absl::StatusOr<std::string> WarmUp(TorchReplica& replica, const Signature& signature,
                                   const Signature& native, int64_t max_batch_size,
                                   const CpuWarmUp& on_cpu = {});

// The smallest batch of zeros, as in WarmUp, through a replica that has been warmed up. REQUIRES:
// nobody runs it meanwhile.
absl::Status RunOneRow(Replica& replica, const Signature& signature, const Signature& native);

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_WARM_UP_H_
