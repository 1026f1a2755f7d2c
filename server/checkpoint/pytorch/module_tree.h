// Whole models: torch.save(model), and TorchScript archives. Their objects are inert nodes in the
// pickle's tree; nothing of their classes is needed to find the tensors, since all modules keep
// them in the same way.
//
// The functions that extract fill in the listing's tensors, non-tensors and modules. The walk does
// not recurse, refuses cycles, and is bounded: modules that are shared are listed under each of
// their names, as PyTorch does.
#ifndef SCONCE_SERVER_CHECKPOINT_PYTORCH_MODULE_TREE_H_
#define SCONCE_SERVER_CHECKPOINT_PYTORCH_MODULE_TREE_H_

#include "absl/status/status.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/pickle/pickle_value.h"
#include "server/checkpoint/pytorch/tensor_rebuilder.h"

namespace sconce {

// Whether the value is a pickled torch.nn.Module.
bool IsModule(const PickleTree& tree, PickleId id);

// What module.state_dict() gives, in its order: parameters, then buffers but for those that are not
// persistent, then the same of each module in it.
// REQUIRES: IsModule(tree, module).
absl::Status ExtractModule(const PickleTree& tree, PickleId module, TensorRebuilder& rebuilder,
                           CheckpointListing& listing);

// The same of a TorchScript module. Which of its tensors are parameters, and which are buffers that
// are not persistent or plain attributes, is written in its code alone, which is not read: all of
// them are listed.
absl::Status ExtractScriptModule(const PickleTree& tree, TensorRebuilder& rebuilder,
                                 CheckpointListing& listing);

// Whether PyTorch's own reader of TorchScript, which looks at no size and takes whatever number is
// called for a function's, makes of the pickle what it says: each tensor, whether it is listed or
// not, lies in its storage, and what is called is named.
absl::Status CheckScriptPickle(const PickleTree& tree, TensorRebuilder& rebuilder);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_PYTORCH_MODULE_TREE_H_
