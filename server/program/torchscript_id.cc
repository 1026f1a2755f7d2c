#include "server/program/torchscript_id.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "server/program/torchscript_file.h"

namespace sconce {
namespace {

using torch::jit::AttributeKind;
using torch::jit::Block;
using torch::jit::Graph;
using torch::jit::Node;
using torch::jit::Value;

// Without the numbers that tell classes of one name apart.
std::string WithoutNumbers(std::string_view text) {
  constexpr std::string_view kMark = "___torch_mangle_";
  std::string out;
  while (true) {
    const size_t mark = text.find(kMark);
    out += text.substr(0, mark);
    if (mark == std::string_view::npos) return out;
    text.remove_prefix(mark + kMark.size());
    const size_t end = text.find_first_not_of("0123456789");
    text = end == std::string_view::npos ? "" : text.substr(end);
    if (text.starts_with('.')) text.remove_prefix(1);
  }
}

class ScriptHasher {
 public:
  explicit ScriptHasher(ProgramHasher& out) : out_(out) {}

  void Add(const Graph& graph) { Add(*graph.block()); }

  void Add(const c10::IValue& value) {
    std::vector<at::Tensor> tensors;
    const std::vector<char> pickle = torch::jit::pickle(value, &tensors);
    out_.Add(WithoutNumbers({pickle.data(), pickle.size()}));
    out_.Add(tensors.size());
    for (const at::Tensor& tensor : tensors) Add(tensor);
  }

 private:
  void Add(const at::Tensor& tensor) {
    out_.Add(tensor.defined());
    if (tensor.defined()) out_.Add(tensor);
  }

  void Add(const c10::TypePtr& type) { out_.Add(WithoutNumbers(type->annotation_str())); }

  void Define(at::ArrayRef<const Value*> values) {
    out_.Add(values.size());
    for (const Value* value : values) {
      places_.emplace(value, places_.size());
      Add(value->type());
    }
  }

  void Use(at::ArrayRef<const Value*> values) {
    out_.Add(values.size());
    for (const Value* value : values) out_.Add(places_.at(value));
  }

  // How deep blocks lie in one another, ForwardGraph has bounded.
  void Add(const Block& block) {
    Define(block.inputs());
    for (const Node* node : block.nodes()) Add(*node);
    Use(block.outputs());
  }

  void Add(const Node& node) {
    out_.Add(std::string_view(node.kind().toQualString()));
    const c10::FunctionSchema* schema = node.maybeSchema();
    if (schema != nullptr) out_.Add(schema->overload_name());
    Use(node.inputs());
    const std::vector<c10::Symbol> names = node.attributeNames();
    out_.Add(names.size());
    for (const c10::Symbol name : names) {
      out_.Add(std::string_view(name.toQualString()));
      out_.Add(node.kindOf(name));
      AddAttribute(node, name);
    }
    out_.Add(node.blocks().size());
    for (const Block* block : node.blocks()) Add(*block);
    Define(node.outputs());
  }

  void AddAttribute(const Node& node, c10::Symbol name) {
    switch (node.kindOf(name)) {
      case AttributeKind::f:
        return out_.Add(node.f(name));
      case AttributeKind::fs:
        return out_.AddAll(node.fs(name));
      case AttributeKind::i:
        return out_.Add(node.i(name));
      case AttributeKind::is:
        return out_.AddAll(node.is(name));
      case AttributeKind::s:
        return out_.Add(node.s(name));
      case AttributeKind::ss:
        return AddEach(node.ss(name), [this](const std::string& text) { out_.Add(text); });
      case AttributeKind::t:
        return Add(node.t(name));
      case AttributeKind::ts:
        return AddEach(node.ts(name), [this](const at::Tensor& tensor) { Add(tensor); });
      case AttributeKind::ty:
        return Add(node.ty(name));
      case AttributeKind::tys:
        return AddEach(node.tys(name), [this](const c10::TypePtr& type) { Add(type); });
      case AttributeKind::g:
        return Add(*node.g(name));
      case AttributeKind::gs:
        return AddEach(node.gs(name), [this](const auto& graph) { Add(*graph); });
      case AttributeKind::c:
        return Add(c10::IValue(node.c(name)));
      case AttributeKind::cs:
        return AddEach(node.cs(name), [this](const auto& number) { Add(c10::IValue(number)); });
      case AttributeKind::ival:
        return Add(node.ival(name));
    }
  }

  template <typename Parts, typename AddOne>
  void AddEach(const Parts& parts, AddOne add) {
    out_.Add(parts.size());
    for (const auto& part : parts) add(part);
  }

  ProgramHasher& out_;
  std::map<const Value*, size_t> places_;
};

}  // namespace

void HashScript(const torch::jit::Module& module, const Graph& forward, ProgramHasher& hasher) {
  ScriptHasher script(hasher);
  script.Add(forward);
  for (const ScriptModule& part : ContentsOf(module).modules) {
    hasher.Add(part.name);
    const c10::ClassTypePtr type = part.object->type();
    for (size_t i = 0; i < type->numAttributes(); ++i) {
      if (type->getAttribute(i)->is_module() || type->is_parameter(i) || type->is_buffer(i)) {
        continue;
      }
      hasher.Add(type->getAttributeName(i));
      script.Add(part.object->getSlot(i));
    }
  }
}

}  // namespace sconce
