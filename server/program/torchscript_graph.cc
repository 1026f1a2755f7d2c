#include "server/program/torchscript_graph.h"

#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/operator.h>

#include <algorithm>
#include <exception>
#include <functional>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "models/program/operators.h"
#include "server/base/printable.h"

namespace sconce {
namespace {

using torch::jit::Block;
using torch::jit::Node;
using torch::jit::Value;

// Blocks may be in blocks as deeply as the archive's code says; the recursion is cut off before the
// stack is full.
constexpr int kMaxBlockDepth = 256;

absl::Status TooDeep() {
  return absl::InvalidArgumentError(
      absl::StrCat("forward: expected blocks at most ", kMaxBlockDepth, " deep, got more"));
}

absl::Status ForEachNode(Block* block, const std::function<absl::Status(Node*)>& use,
                         int depth = 0) {
  if (depth > kMaxBlockDepth) return TooDeep();
  for (auto node = block->nodes().begin(); node != block->nodes().end();) {
    Node* const current = *node;
    ++node;  // `use` may take the node away
    for (Block* inner : current->blocks()) {
      if (absl::Status done = ForEachNode(inner, use, depth + 1); !done.ok()) return done;
    }
    if (absl::Status done = use(current); !done.ok()) return done;
  }
  return absl::OkStatus();
}

// Where in the model's source a node comes from: " (model.py:12)", "" where that is not known.
std::string SourceOf(const Node& node) {
  const auto place = node.sourceRange().file_line_col();
  if (!place.has_value()) return "";
  return absl::StrCat(" (", Printable(std::get<0>(*place)), ":", std::get<1>(*place), ")");
}

template <typename... Parts>
absl::Status NotSupported(const Node& node, const Parts&... parts) {
  return absl::UnimplementedError(absl::StrCat("forward", SourceOf(node), ": ", parts...));
}

// What a view is a view of, down to where the memory was made or fetched.
const Value* MemoryOf(const Value* value) {
  for (;;) {
    const Node* node = value->node();
    const c10::FunctionSchema* schema = node->maybeSchema();
    if (schema == nullptr || schema->returns().size() != 1) return value;
    const c10::AliasInfo* result = schema->returns()[0].alias_info();
    if (result == nullptr) return value;
    const Value* source = nullptr;
    for (size_t i = 0; i < schema->arguments().size() && i < node->inputs().size(); ++i) {
      const c10::AliasInfo* argument = schema->arguments()[i].alias_info();
      if (argument != nullptr && argument->beforeSets() == result->beforeSets()) {
        source = node->inputs()[i];
        break;
      }
    }
    if (source == nullptr) return value;
    value = source;
  }
}

// The attribute that a node writes into, where it does.
std::optional<std::string> WrittenAttribute(const Node& node) {
  const c10::FunctionSchema* schema = node.maybeSchema();
  if (schema == nullptr) return std::nullopt;
  for (size_t i = 0; i < schema->arguments().size() && i < node.inputs().size(); ++i) {
    const c10::AliasInfo* alias = schema->arguments()[i].alias_info();
    if (alias == nullptr || !alias->isWrite()) continue;
    const Value* memory = MemoryOf(node.inputs()[i]);
    if (memory->node()->kind() == c10::prim::GetAttr) {
      return memory->node()->s(c10::attr::name);
    }
  }
  return std::nullopt;
}

// Whether the argument called `name` is the constant true.
bool IsTrue(const Node& node, const char* name) {
  const c10::FunctionSchema* schema = node.maybeSchema();
  if (schema == nullptr) return false;
  const std::optional<int> index = schema->argumentIndexWithName(name);
  if (!index.has_value() || static_cast<size_t>(*index) >= node.inputs().size()) return false;
  const std::optional<c10::IValue> value =
      torch::jit::toIValue(node.inputs()[static_cast<size_t>(*index)]);
  return value.has_value() && value->isBool() && value->toBool();
}

// What a script asks of tensors beside calculating with them.
constexpr absl::string_view kQuestions[] = {
    "aten::__and__",        "aten::__iand__",    "aten::__ilshift__",
    "aten::__ior__",        "aten::__irshift__", "aten::__ixor__",
    "aten::__lshift__",     "aten::__or__",      "aten::__rshift__",
    "aten::__xor__",        "aten::can_cast",    "aten::data",
    "aten::detach_",        "aten::dim",         "aten::get_device",
    "aten::is_complex",     "aten::is_conj",     "aten::is_floating_point",
    "aten::is_inference",   "aten::is_neg",      "aten::is_nonzero",
    "aten::is_same_size",   "aten::is_set_to",   "aten::is_signed",
    "aten::numel",          "aten::numpy_T",     "aten::output_nr",
    "aten::promote_types",  "aten::result_type", "aten::size",
    "aten::storage_offset", "aten::stride",      "aten::is_contiguous"};

// Of the operators that TorchScript has beside the dispatcher's (lists, texts, numbers), those that
// reach beyond the script.
constexpr absl::string_view kBeyond[] = {
    "aten::save",         "aten::manual_seed",    "aten::seed",     "aten::initial_seed",
    "prim::rpc_async",    "prim::rpc_remote",     "prim::rpc_sync", "prim::PythonOp",
    "prim::AddStatValue", "prim::IgnoredPythonOp"};

template <size_t n>
bool Contains(const absl::string_view (&names)[n], absl::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

absl::Status CheckOperator(const Node& node, const std::string& name) {
  const torch::jit::Operator* op = node.maybeOperator();
  if (op != nullptr && op->isC10Op()) {
    if (Contains(kQuestions, name)) return absl::OkStatus();
    const auto allowed = models::FindOperator(name, op->schema().overload_name());
    return allowed.ok() ? absl::OkStatus() : NotSupported(node, allowed.status().message());
  }
  const bool own = absl::StartsWith(name, "aten::") || absl::StartsWith(name, "prim::");
  if (own && !Contains(kBeyond, name)) return absl::OkStatus();
  return NotSupported(node, "operator '", Printable(name), "' is not supported");
}

std::optional<bool> KnownTruth(const Value* value) {
  const std::optional<c10::IValue> known = torch::jit::toIValue(value);
  if (!known.has_value() || !known->isBool()) return std::nullopt;
  return known->toBool();
}

// A network that serves is never in training mode: what only training does is taken out, so that
// it is not held against the module.
absl::Status TakeOutTraining(Block* block, int depth = 0) {
  if (depth > kMaxBlockDepth) return TooDeep();
  for (auto next = block->nodes().begin(); next != block->nodes().end();) {
    Node* const node = *next;
    ++next;
    torch::jit::Graph& graph = *block->owningGraph();
    const torch::jit::WithInsertPoint here(node);
    if (node->kind() == c10::prim::GetAttr && node->s(c10::attr::name) == "training" &&
        node->output()->type()->kind() == c10::TypeKind::BoolType) {
      node->output()->replaceAllUsesWith(graph.insertConstant(false));
    } else if (node->kind() == c10::aten::__not__ && KnownTruth(node->input()).has_value()) {
      node->output()->replaceAllUsesWith(graph.insertConstant(!*KnownTruth(node->input())));
    } else if (node->kind() == c10::prim::If && KnownTruth(node->input()).has_value()) {
      Block* const taken = node->blocks()[*KnownTruth(node->input()) ? 0 : 1];
      // What is moved out stands before the node that comes next, and is looked at first.
      std::vector<Node*> moved(taken->nodes().begin(), taken->nodes().end());
      for (Node* inner : moved) inner->moveBefore(node);
      for (size_t i = 0; i < node->outputs().size(); ++i) {
        node->outputs()[i]->replaceAllUsesWith(taken->outputs()[i]);
      }
      if (!moved.empty()) next = moved.front()->iterator();
      node->destroy();
      continue;
    }
    for (Block* inner : node->blocks()) {
      if (absl::Status done = TakeOutTraining(inner, depth + 1); !done.ok()) return done;
    }
  }
  return absl::OkStatus();
}

absl::Status InTrainingMode(const Node& node, const std::string& operator_name) {
  return absl::FailedPreconditionError(
      absl::StrCat("forward", SourceOf(node), ": the operator ", operator_name,
                   " is in training mode: call model.eval() before torch.jit.trace"));
}

absl::Status Check(Node* node) {
  const c10::Symbol kind = node->kind();
  const std::string name = kind.toQualString();
  if (kind == c10::prim::Print) {
    node->destroy();  // the server's output is no place for a model's
    return absl::OkStatus();
  }
  if (kind == c10::prim::SetAttr) {
    return NotSupported(*node, "the module's attribute '", Printable(node->s(c10::attr::name)),
                        "' is changed, so that an answer would depend on earlier requests; that "
                        "is not supported");
  }
  if (kind == c10::prim::fork || name == "prim::awaitable") {
    return NotSupported(*node, "torch.jit.fork is not supported");
  }
  if (kind == c10::prim::CallMethod || kind == c10::prim::CallFunction) {
    return NotSupported(*node,
                        "a call whose target is only known when it runs (an interface) is "
                        "not supported");
  }
  if (absl::Status allowed = CheckOperator(*node, name); !allowed.ok()) return allowed;
  if (const std::optional<std::string> attribute = WrittenAttribute(*node)) {
    if (*attribute == "num_batches_tracked") return InTrainingMode(*node, name);
    return NotSupported(*node, "the operator ", Printable(name), " writes into the module's '",
                        Printable(*attribute),
                        "', so that an answer would depend on earlier requests; that is not "
                        "supported");
  }
  if ((name == "aten::batch_norm" && IsTrue(*node, "training")) ||
      (name == "aten::dropout" && IsTrue(*node, "train"))) {
    return InTrainingMode(*node, name);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<torch::jit::Graph>> ForwardGraph(const torch::jit::Module& module) {
  try {
    const std::optional<torch::jit::Method> method = module.find_method("forward");
    if (!method.has_value()) {
      return absl::InvalidArgumentError("expected a module with a forward(), got one without");
    }
    std::shared_ptr<torch::jit::Graph> graph = method->graph()->copy();
    torch::jit::Inline(*graph);
    if (absl::Status done = TakeOutTraining(graph->block()); !done.ok()) return done;
    if (absl::Status checked = ForEachNode(graph->block(), Check); !checked.ok()) return checked;
    return graph;
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("forward: ", Printable(error.what(), 600)));
  }
}

std::shared_ptr<torch::jit::Graph> GraphOn(const torch::jit::Graph& graph, c10::Device device) {
  std::shared_ptr<torch::jit::Graph> copy = const_cast<torch::jit::Graph&>(graph).copy();
  const absl::Status moved = ForEachNode(copy->block(), [device](Node* node) {
    if (node->kind() != c10::prim::Constant || !node->hasAttribute(c10::attr::value)) {
      return absl::OkStatus();
    }
    switch (node->kindOf(c10::attr::value)) {
      case torch::jit::AttributeKind::t:
        node->t_(c10::attr::value, node->t(c10::attr::value).to(device));
        break;
      case torch::jit::AttributeKind::ival:
        node->ival_(c10::attr::value, node->ival(c10::attr::value).deepcopy(device));
        break;
      case torch::jit::AttributeKind::s:
        if (node->output()->type()->kind() == c10::TypeKind::DeviceObjType) {
          node->s_(c10::attr::value, device.str());
        }
        break;
      default:
        break;
    }
    return absl::OkStatus();
  });
  TORCH_CHECK(moved.ok(), std::string(moved.message()));
  return copy;
}

}  // namespace sconce
