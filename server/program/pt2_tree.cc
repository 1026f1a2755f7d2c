#include "server/program/pt2_tree.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/base/utf8.h"

namespace sconce {
namespace {

using nlohmann::json;

constexpr int kMaxTreeDepth = 32;
constexpr size_t kMaxNameBytes = 128;

// Collects the leaves' names; false where the tree is not understood.
class Walk {
 public:
  Walk(std::string prefix, size_t leaves, const NamedTupleFields& fields)
      : prefix_(std::move(prefix)), leaves_(leaves), fields_(fields) {}

  bool Visit(const json& tree, const std::string& name, bool has_key, int depth) {
    if (depth > kMaxTreeDepth || !tree.is_object() || !tree.contains("type") ||
        !tree.contains("children_spec") || !tree["children_spec"].is_array()) {
      return false;
    }
    const json& children = tree["children_spec"];
    if (tree["type"].is_null()) {
      if (names_.size() == leaves_) return false;
      names_.push_back(has_key ? name : name.empty() ? prefix_ : absl::StrCat(prefix_, "_", name));
      return true;
    }
    const std::vector<std::string> keys = KeysOf(tree, children.size());
    for (size_t i = 0; i < children.size(); ++i) {
      const bool keyed = i < keys.size();
      const std::string own = keyed ? keys[i] : absl::StrCat(i);
      // Keys make a name on their own: what is around them tells nothing more.
      const std::string child = name.empty() ? own : absl::StrCat(name, "_", own);
      if (child.size() > kMaxNameBytes) return false;
      if (!Visit(children[i], child, has_key || keyed, depth + 1)) return false;
    }
    return true;
  }

  std::vector<std::string> Take() { return std::move(names_); }

 private:
  std::vector<std::string> KeysOf(const json& tree, size_t children) const {
    if (!tree["type"].is_string() || !tree.contains("context") || !tree["context"].is_string()) {
      return {};
    }
    const json context = json::parse(tree["context"].get<std::string>(), nullptr, false);
    std::vector<std::string> keys;
    if (context.is_string()) keys = fields_(context.get<std::string>());
    if (context.is_array()) {
      for (const json& key : context) {
        if (key.is_string()) keys.push_back(key.get<std::string>());
        if (key.is_number_integer()) keys.push_back(absl::StrCat(key.get<int64_t>()));
      }
    }
    for (const std::string& key : keys) {
      if (key.empty() || !IsUtf8(key)) return {};
    }
    if (keys.size() != children) return {};
    return keys;
  }

  const std::string prefix_;
  const size_t leaves_;
  const NamedTupleFields& fields_;
  std::vector<std::string> names_;
};

}  // namespace

std::vector<std::string> LeafNames(const std::string& tree, size_t leaves,
                                   const std::string& prefix, const NamedTupleFields& fields) {
  const json parsed = json::parse(tree, nullptr, false);
  if (parsed.is_array() && parsed.size() == 2) {
    Walk walk(prefix, leaves, fields);
    if (walk.Visit(parsed[1], "", false, 0)) {
      std::vector<std::string> names = walk.Take();
      if (names.size() == leaves && std::set(names.begin(), names.end()).size() == leaves) {
        return names;
      }
    }
  }
  std::vector<std::string> names;
  for (size_t i = 0; i < leaves; ++i) names.push_back(absl::StrCat(prefix, "_", i));
  if (leaves == 1) names[0] = prefix;
  return names;
}

}  // namespace sconce
