// Convolutions take over the numbers of the batch norms that follow them, so that these need not be
// run. Done to a network on its device after it has its weights, before anybody runs it.

#ifndef SCONCE_SERVER_LOADER_FOLD_NORMS_H_
#define SCONCE_SERVER_LOADER_FOLD_NORMS_H_

#include <c10/core/ScalarType.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "models/net.h"
#include "server/device/upload/pooled_weights.h"

namespace sconce {

// What folding takes of a device's memory.
struct FoldingMemory {
  // Of what is made, which stays. Where nobody else has the weights that it is made of, these go.
  int64_t made_bytes = 0;
  // For a moment, beside that: the largest convolution, in double precision and as it is made.
  int64_t scratch_bytes = 0;
};

// `floating`: the type that is made; none: the network's own.
FoldingMemory MemoryToFold(const models::Net& net, std::optional<c10::ScalarType> floating);

// The tensors that are folded, by index in State(): they are wanted in the network's own type, so
// that what is made of them is rounded once.
std::vector<size_t> FoldedTensors(const models::Net& net);

// Folds every pair that `net` names, in double precision, casts it, and lets `weights` go of what
// was folded, pair by pair. Throws what LibTorch throws.
// REQUIRES: `net` has its tensors from `weights` alone, and nobody runs it.
void FoldBatchNorms(models::Net& net, const ResidentWeights& weights,
                    std::optional<c10::ScalarType> floating);

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_FOLD_NORMS_H_
