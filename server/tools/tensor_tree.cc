#include "server/tools/tensor_tree.h"

#include <memory>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sconce::tools {
namespace {

constexpr size_t kMaxDepth = 32;

struct Node {
  std::string label;
  size_t tensor = TreeRow::kModule;
  std::vector<std::unique_ptr<Node>> children;
  std::unordered_map<std::string_view, Node*> modules;  // by label, which the child owns

  Node& Module(std::string_view part) {
    if (const auto found = modules.find(part); found != modules.end()) return *found->second;
    Node& child = Add(part);
    modules.emplace(child.label, &child);
    return child;
  }

  Node& Add(std::string_view part) {
    children.push_back(std::make_unique<Node>());
    children.back()->label = std::string(part);
    return *children.back();
  }
};

// No deeper than kMaxDepth.
void Lay(const Node& node, size_t depth, const std::string& path, std::vector<TreeRow>& rows) {
  for (const auto& child : node.children) {
    if (child->tensor != TreeRow::kModule) {
      rows.push_back(
          {.depth = depth, .label = child->label, .module = {}, .tensor = child->tensor});
      continue;
    }
    // Modules that hold one module and nothing else are one row.
    const Node* last = child.get();
    std::string label = last->label;
    while (last->children.size() == 1 && last->children[0]->tensor == TreeRow::kModule) {
      last = last->children[0].get();
      absl::StrAppend(&label, ".", last->label);
    }
    const std::string module = path.empty() ? label : absl::StrCat(path, ".", label);
    rows.push_back({.depth = depth, .label = label, .module = module});
    Lay(*last, depth + 1, module, rows);
  }
}

}  // namespace

std::vector<TreeRow> TreeOf(absl::Span<const std::string> names) {
  Node root;
  for (size_t i = 0; i < names.size(); ++i) {
    std::string_view rest = names[i];
    Node* node = &root;
    for (size_t depth = 0; depth < kMaxDepth; ++depth) {
      const size_t dot = rest.find('.');
      if (dot == std::string_view::npos) break;
      node = &node->Module(rest.substr(0, dot));
      rest.remove_prefix(dot + 1);
    }
    node->Add(rest).tensor = i;
  }
  std::vector<TreeRow> rows;
  Lay(root, 0, "", rows);
  return rows;
}

}  // namespace sconce::tools
