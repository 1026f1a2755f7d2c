#include "server/tools/named_tensors.h"

#include "server/weights/key_normalisation.h"

namespace sconce::tools {

NamedTensors::NamedTensors(const Checkpoint& checkpoint) : checkpoint_(&checkpoint) {
  std::vector<std::string> names;
  for (const TensorDescriptor& tensor : checkpoint.tensors()) names.push_back(tensor.name);
  cut_ = WrapperPrefix(names).size();
  for (size_t i = 0; i < names.size(); ++i) index_.emplace(NameOf(i), i);
}

std::string_view NamedTensors::NameOf(size_t index) const {
  return std::string_view(tensors()[index].name).substr(cut_);
}

const TensorDescriptor* NamedTensors::Find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors()[found->second];
}

}  // namespace sconce::tools
