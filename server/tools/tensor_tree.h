// The tensors of a checkpoint as a tree of modules, laid out as rows of text. Pure functions.
#ifndef SCONCE_SERVER_TOOLS_TENSOR_TREE_H_
#define SCONCE_SERVER_TOOLS_TENSOR_TREE_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace sconce::tools {

struct TreeRow {
  static constexpr size_t kModule = static_cast<size_t>(-1);

  size_t depth = 0;
  // "conv1", or "layer1.0" where modules hold nothing else. Untrusted.
  std::string label;
  // Dotted path of a module, to find its class by; empty for a tensor.
  std::string module;
  size_t tensor = kModule;  // index into the names, kModule for a module
};

// Parents before children, in the order of the names' first appearance. Time and memory are
// proportional to the names: past a depth of 32, the rest of a name is one label.
std::vector<TreeRow> TreeOf(absl::Span<const std::string> names);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_TENSOR_TREE_H_
