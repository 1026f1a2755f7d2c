// ExtractStateDict: finds the state_dict in what was pickled and describes its entries.
//
// The state_dict is the pickled object itself, or lies in it under a key: one of those that
// training code is known to use (in order of preference), else the only key that holds one. A whole
// model in its place is taken for its state_dict (module_tree.h). Everything else becomes metadata
// (metadata_text.h), so foreign classes, cycles and depth elsewhere do not matter.
#ifndef SCONCE_SERVER_CHECKPOINT_PYTORCH_STATE_DICT_EXTRACTOR_H_
#define SCONCE_SERVER_CHECKPOINT_PYTORCH_STATE_DICT_EXTRACTOR_H_

#include <array>
#include <string_view>

#include "absl/status/status.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/pickle/pickle_value.h"
#include "server/checkpoint/pytorch/tensor_rebuilder.h"

namespace sconce {

// The keys that training code is known to keep a model's state_dict under. In order of preference:
// what holds the weights themselves comes before averages of them.
inline constexpr std::array<std::string_view, 8> kKnownWrappers = {
    "state_dict", "model_state_dict", "model",    "model_state", "net",
    "ema",        "state_dict_ema",   "model_ema"};

// Fills in the listing's tensors, wrapper, module versions, non-tensors, modules and
// metadata.
absl::Status ExtractStateDict(const PickleTree& tree, TensorRebuilder& rebuilder,
                              CheckpointListing& listing);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_PYTORCH_STATE_DICT_EXTRACTOR_H_
