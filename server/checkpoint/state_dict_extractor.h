// ExtractStateDict: finds the state_dict in what was pickled and describes its entries.
//
// The state_dict is the pickled object itself, or lies in it under a key: one of those that
// training code is known to use (in order of preference), else the only key that holds one. Nothing
// else of the object is followed, so foreign classes, cycles and depth elsewhere do not matter.
#ifndef SCONCE_SERVER_CHECKPOINT_STATE_DICT_EXTRACTOR_H_
#define SCONCE_SERVER_CHECKPOINT_STATE_DICT_EXTRACTOR_H_

#include "absl/status/status.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/pickle_value.h"
#include "server/checkpoint/tensor_rebuilder.h"

namespace sconce {

// Fills in the listing's tensors, wrapper, module versions, non-tensors and metadata.
absl::Status ExtractStateDict(const PickleTree& tree, TensorRebuilder& rebuilder,
                              CheckpointListing& listing);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_STATE_DICT_EXTRACTOR_H_
