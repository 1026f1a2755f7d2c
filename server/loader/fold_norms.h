// Convolutions take over the numbers of the batch norms that follow them, so that these need not be
// run. Done to a network on its device after it has its weights, before anybody runs it.

#ifndef SCONCE_SERVER_LOADER_FOLD_NORMS_H_
#define SCONCE_SERVER_LOADER_FOLD_NORMS_H_

#include <c10/core/Device.h>

#include <cstddef>

#include "models/net.h"
#include "server/device/upload/pooled_weights.h"

namespace sconce {

// Folds every pair that `net` names, in double precision, and lets `weights` go of what was folded,
// pair by pair: beside the weights there is memory for one convolution more, in double precision as
// well, and afterwards for none. Gives the number of pairs. Throws what LibTorch throws.
// REQUIRES: `net` has its tensors from `weights` alone, and nobody runs it.
size_t FoldBatchNorms(models::Net& net, const ResidentWeights& weights);

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_FOLD_NORMS_H_
