// NamedTensors: the tensors of a checkpoint found by the name a network knows them under, so that
// weights saved from within a wrapper ("module.", "_orig_mod.") meet those that were not.
//
// Immutable; the checkpoint outlives it.
#ifndef SCONCE_SERVER_TOOLS_NAMED_TENSORS_H_
#define SCONCE_SERVER_TOOLS_NAMED_TENSORS_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "server/checkpoint/checkpoint.h"

namespace sconce::tools {

class NamedTensors {
 public:
  explicit NamedTensors(const Checkpoint& checkpoint);

  const Checkpoint& checkpoint() const { return *checkpoint_; }
  const std::vector<TensorDescriptor>& tensors() const { return checkpoint_->tensors(); }
  // Without the wrapper's prefix.
  std::string_view NameOf(size_t index) const;
  // Null where there is none of that name.
  const TensorDescriptor* Find(std::string_view name) const;

 private:
  const Checkpoint* checkpoint_;
  size_t cut_ = 0;
  std::unordered_map<std::string_view, size_t> index_;
};

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_NAMED_TENSORS_H_
