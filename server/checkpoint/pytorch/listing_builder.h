// ListingBuilder: puts the entries of a state_dict, wherever they were found, into a checkpoint's
// listing: tensors are rebuilt, what is none is noted, and names are checked.
//
// Used by one thread while a file is opened.
#ifndef SCONCE_SERVER_CHECKPOINT_PYTORCH_LISTING_BUILDER_H_
#define SCONCE_SERVER_CHECKPOINT_PYTORCH_LISTING_BUILDER_H_

#include <string>
#include <string_view>
#include <unordered_set>

#include "absl/status/status.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/pickle/pickle_value.h"
#include "server/checkpoint/pytorch/tensor_rebuilder.h"

namespace sconce {

// Whether this is a module's own extra state, which PyTorch hands to the module and never loads as
// a tensor.
bool IsExtraState(std::string_view name);

class ListingBuilder {
 public:
  // All must outlive the builder.
  ListingBuilder(const PickleTree& tree, TensorRebuilder& rebuilder, CheckpointListing& listing)
      : tree_(tree), rebuilder_(rebuilder), listing_(listing) {}

  // Errors name the tensor.
  absl::Status Add(std::string_view name, PickleId value, bool is_parameter = false);

  // To be called after the last entry: an error where there were tensors, but none with data.
  absl::Status CheckHasData() const;

 private:
  absl::Status AddEntry(std::string_view name, PickleId value, bool is_parameter);

  const PickleTree& tree_;
  TensorRebuilder& rebuilder_;
  CheckpointListing& listing_;
  std::unordered_set<std::string> names_;
  bool has_meta_tensors_ = false;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_PYTORCH_LISTING_BUILDER_H_
