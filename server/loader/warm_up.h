// WarmUp: a replica proves, before it is published, that it runs. Zeros go through it in every
// batch size it is prepared for: the outputs are what the signature says, the memory that batches
// need is there and stays there, and what LibTorch and the device set up at a first run is set up.
//
// Called on the loading thread; other replicas of the device go on meanwhile.

#ifndef SCONCE_SERVER_LOADER_WARM_UP_H_
#define SCONCE_SERVER_LOADER_WARM_UP_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "server/device/execution/torch_replica.h"
#include "server/registry/signature.h"

namespace sconce {

// On a device: batches of 1, 2, 4, ... rows up to `max_batch_size`, as many at a time as the
// replica holds. The largest whose memory is there becomes the replica's max_rows(); graphs are
// captured up to that, unless a dimension is -1. On the CPU, where a first run differs little from
// the next ones and memory cannot be proven, one row, and the largest batch where it is cheap.
// `native`: the signature of the network, which says what a dimension of -1 may be.
//
// Gives what is worth a word in the log, such as why there are no graphs; empty: nothing.
// INVALID_ARGUMENT: the network does not run, or gives something else than `signature` says.
// RESOURCE_EXHAUSTED: there is no memory for one row. UNAVAILABLE: the device is lost.
// REQUIRES: max_batch_size >= 1; the replica has not been shared.
absl::StatusOr<std::string> WarmUp(TorchReplica& replica, const Signature& signature,
                                   const Signature& native, int64_t max_batch_size);

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_WARM_UP_H_
