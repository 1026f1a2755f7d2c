#include "server/program/pt2_module.h"

#include <algorithm>
#include <cctype>

#include "server/base/printable.h"

namespace sconce {

const Json* ForwardSignature(const Json& module) {
  const auto calls = module.find("module_call_graph");
  if (calls == module.end() || !calls->is_array()) return nullptr;
  for (const Json& call : *calls) {
    const auto name = call.find("fqn");
    const auto signature = call.find("signature");
    if (name == call.end() || !name->is_string() || !name->get<std::string>().empty()) continue;
    if (signature != call.end() && signature->is_object()) return &*signature;
  }
  return nullptr;
}

std::vector<std::string> TupleFieldsOf(const Json& module, const std::string& type) {
  std::vector<std::string> names;
  const auto types = module.find("treespec_namedtuple_fields");
  if (types == module.end() || !types->is_object() || !types->contains(type)) return names;
  for (const Json& name : List(Member((*types)[type], "field_names"))) {
    names.push_back(Text(name));
  }
  return names;
}

std::string ClassNameOf(const Json& module) {
  // The outermost module of the first node that tells: "L__self__,,package.ResNet;...".
  for (const Json& node : List(Member(Member(module, "graph"), "nodes"))) {
    const auto metadata = node.find("metadata");
    if (metadata == node.end() || !metadata->is_object()) continue;
    const auto stack = metadata->find("nn_module_stack");
    if (stack == metadata->end() || !stack->is_string()) continue;
    std::string text = stack->get<std::string>();
    text = text.substr(0, text.find(';'));
    text = text.substr(text.find_last_of(",.") + 1);
    const auto is_word = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; };
    if (!text.empty() && text.size() < 100 && std::all_of(text.begin(), text.end(), is_word)) {
      return text;
    }
  }
  return "Program";
}

std::vector<std::string> SubmoduleNamesOf(const Json& module) {
  std::vector<std::string> names;
  const auto calls = module.find("module_call_graph");
  if (calls == module.end() || !calls->is_array()) return names;
  for (const Json& call : *calls) {
    const auto name = call.find("fqn");
    if (name == call.end() || !name->is_string()) continue;
    const auto text = name->get<std::string>();
    // Further calls of the same module have a number after an '@'.
    if (text.empty() || text.find('@') != std::string::npos || Printable(text) != text) continue;
    names.push_back(text);
  }
  return names;
}

}  // namespace sconce
