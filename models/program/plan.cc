#include "models/program/plan.h"

#include <ATen/ScalarOps.h>
#include <ATen/core/jit_type.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/architecture.h"
#include "models/program/operators.h"
#include "models/program/plan_arguments.h"
#include "models/program/plan_values.h"

namespace sconce::models {
namespace {

using Kind = PlanArgument::Kind;
using Want = PlanArgument::Want;
using c10::TypeKind;

bool IsNone(const Argument& argument) {
  return std::holds_alternative<Argument::None>(argument.variant);
}

// Schemas that say in words alone that they write: batch norms take statistics in training.
bool WritesStatistics(const GraphNode& node, const c10::FunctionSchema& schema) {
  bool trains = false;
  bool has_statistics = false;
  for (size_t i = 0; i < node.arguments.size(); ++i) {
    std::string name = node.arguments[i].name;
    if (name.empty() && i < schema.arguments().size()) name = schema.arguments()[i].name();
    const Argument& value = node.arguments[i].value;
    if (name == "running_mean") has_statistics = !IsNone(value);
    if (name == "training" || name == "use_input_stats") {
      const bool* given = std::get_if<bool>(&value.variant);
      trains = given == nullptr || *given;
    }
  }
  return trains && has_statistics;
}

class Planner {
 public:
  explicit Planner(const Graph& graph)
      : graph_(graph), values_(graph, plan_), arguments_(values_) {}

  absl::StatusOr<Plan> Run() {
    if (absl::Status defined = values_.DefineHeld(); !defined.ok()) return defined;
    for (const GraphInput& input : graph_.inputs) {
      if (absl::Status defined = values_.DefineSlot(input.value, true); !defined.ok()) {
        return defined;
      }
      roots_.push_back({plan_.slots - 1});
    }
    plan_.written_inputs.resize(graph_.inputs.size());
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      if (absl::Status added = AddNode(i); !added.ok()) {
        return absl::Status(added.code(),
                            absl::StrCat(Describe(graph_.nodes[i]), ": ", added.message()));
      }
    }
    for (const GraphOutput& output : graph_.outputs) {
      absl::StatusOr<PlanArgument> source = values_.PlaceOf(output.value, Want::kTensor);
      if (!source.ok()) {
        return absl::Status(source.status().code(), absl::StrCat("output ", Quoted(output.name),
                                                                 ": ", source.status().message()));
      }
      plan_.outputs.push_back(*std::move(source));
    }
    MarkLastUses();
    return std::move(plan_);
  }

 private:
  absl::Status AddNode(size_t index) {
    const GraphNode& node = graph_.nodes[index];
    PlanNode planned{.graph_node = index};
    if (absl::StartsWith(node.op, "sym::")) return AddSymbolic(node, std::move(planned));
    if (node.op == "aten::sym_size" && node.overload == "int") {
      return AddSize(node, std::move(planned));
    }
    absl::StatusOr<c10::OperatorHandle> op = FindOperator(node.op, node.overload);
    if (!op.ok()) return op.status();
    const c10::FunctionSchema& schema = op->schema();
    if (WritesStatistics(node, schema)) {
      return absl::UnimplementedError(
          "the program was exported in training mode, in which it changes its own buffers; call "
          "eval() before");
    }
    planned.op = *op;
    planned.leaves_memory_unwritten = LeavesMemoryUnwritten(node.op);
    absl::StatusOr<std::vector<const Argument*>> given = MatchArguments(node, schema);
    if (!given.ok()) return given.status();
    const bool has_tensors = std::any_of(
        schema.arguments().begin(), schema.arguments().end(),
        [](const auto& argument) { return argument.type()->kind() == TypeKind::TensorType; });
    for (size_t i = 0; i < schema.arguments().size(); ++i) {
      const c10::Argument& wanted = schema.arguments()[i];
      absl::StatusOr<PlanArgument> argument = arguments_.Convert(wanted, (*given)[i], has_tensors);
      if (!argument.ok()) {
        return absl::Status(
            argument.status().code(),
            absl::StrCat("argument '", wanted.name(), "': ", argument.status().message()));
      }
      const c10::AliasInfo* alias = wanted.alias_info();
      if (alias != nullptr && alias->isWrite()) {
        if (values_.IsOfProgram(*argument)) {
          return absl::UnimplementedError(
              absl::StrCat("it changes the ", values_.DescribeHeld(*argument),
                           " in place, which is not supported (a module in training mode does it: "
                           "call eval() before exporting)"));
        }
        if (argument->kind == Kind::kHeld && values_.LiteralOf(*argument).isTensor()) {
          return absl::InvalidArgumentError("it changes a number in place");
        }
        if (argument->kind == Kind::kSlot) {
          planned.written.push_back(i);
          for (const size_t root : RootsOf(argument->index)) plan_.written_inputs[root] = true;
        }
      }
      planned.arguments.push_back(*std::move(argument));
    }
    if (absl::Status added = AddOutputs(node, schema, planned); !added.ok()) return added;
    plan_.nodes.push_back(std::move(planned));
    return absl::OkStatus();
  }

  absl::Status AddSymbolic(const GraphNode& node, PlanNode planned) {
    planned.symbolic = FindSymbolicOp(absl::string_view(node.op).substr(5));
    if (planned.symbolic == nullptr) return absl::UnimplementedError("is not supported");
    if (node.arguments.size() != planned.symbolic->operands) {
      return absl::InvalidArgumentError(absl::StrCat("expected ", planned.symbolic->operands,
                                                     " arguments, got ", node.arguments.size()));
    }
    for (const NamedArgument& argument : node.arguments) {
      absl::StatusOr<PlanArgument> number = arguments_.Number(argument.value);
      if (!number.ok()) return number.status();
      planned.arguments.push_back(*std::move(number));
    }
    return AddNumber(node, std::move(planned));
  }

  absl::Status AddSize(const GraphNode& node, PlanNode planned) {
    const ValueId* tensor = node.arguments.size() == 2
                                ? std::get_if<ValueId>(&node.arguments[0].value.variant)
                                : nullptr;
    if (tensor == nullptr || !std::holds_alternative<int64_t>(node.arguments[1].value.variant)) {
      return absl::InvalidArgumentError("expected a tensor and the number of a dimension");
    }
    absl::StatusOr<PlanArgument> source = values_.PlaceOf(*tensor, Want::kTensor);
    if (!source.ok()) return source.status();
    planned.arguments.push_back(*std::move(source));
    planned.arguments.push_back(
        values_.Literal(std::get<int64_t>(node.arguments[1].value.variant)));
    return AddNumber(node, std::move(planned));
  }

  // A node whose one result is a number.
  absl::Status AddNumber(const GraphNode& node, PlanNode planned) {
    if (node.outputs.size() != 1 || node.outputs[0].is_list || node.outputs[0].values.size() != 1) {
      return absl::InvalidArgumentError("expected one result");
    }
    if (absl::Status defined = values_.DefineSlot(node.outputs[0].values[0], false);
        !defined.ok()) {
      return defined;
    }
    roots_.emplace_back();
    planned.outputs.push_back({.slots = {plan_.slots - 1}});
    plan_.nodes.push_back(std::move(planned));
    return absl::OkStatus();
  }

  absl::Status AddOutputs(const GraphNode& node, const c10::FunctionSchema& schema,
                          PlanNode& planned) {
    const auto& returns = schema.returns();
    if (node.outputs.size() != returns.size() &&
        !(node.outputs.empty() ||
          (returns.empty() && node.outputs.size() == 1 && node.outputs[0].values.empty()))) {
      return absl::InvalidArgumentError(
          absl::StrCat("expected ", returns.size(), " results, got ", node.outputs.size()));
    }
    for (size_t i = 0; i < returns.size() && i < node.outputs.size(); ++i) {
      const NodeOutput& output = node.outputs[i];
      const TypeKind kind = returns[i].type()->kind();
      if (output.is_list != (kind == TypeKind::ListType) ||
          (!output.is_list && output.values.size() != 1)) {
        return absl::InvalidArgumentError(
            "expected results as the operator gives them, got others");
      }
      const std::vector<size_t> roots = RootsOfResult(schema, returns[i], planned);
      PlanOutput slots{.slots = {}, .is_list = output.is_list};
      for (const ValueId value : output.values) {
        if (value.index == -1) {
          slots.slots.push_back(PlanOutput::kUnused);
          continue;
        }
        const bool is_tensor = output.is_list || kind == TypeKind::TensorType;
        if (absl::Status defined = values_.DefineSlot(value, is_tensor); !defined.ok()) {
          return defined;
        }
        roots_.push_back(roots);
        slots.slots.push_back(plan_.slots - 1);
      }
      planned.outputs.push_back(std::move(slots));
    }
    return absl::OkStatus();
  }

  const std::vector<size_t>& RootsOf(size_t slot) const { return roots_[slot]; }

  // The inputs that a result may share memory with, as far as the schema says it.
  std::vector<size_t> RootsOfResult(const c10::FunctionSchema& schema, const c10::Argument& result,
                                    const PlanNode& planned) const {
    std::set<size_t> roots;
    if (result.alias_info() == nullptr) return {};
    for (size_t i = 0; i < schema.arguments().size(); ++i) {
      if (schema.arguments()[i].alias_info() == nullptr) continue;
      const PlanArgument& argument = planned.arguments[i];
      if (argument.kind != Kind::kSlot) continue;
      const std::vector<size_t>& of = RootsOf(argument.index);
      roots.insert(of.begin(), of.end());
    }
    return {roots.begin(), roots.end()};
  }

  void MarkLastUses() {
    std::vector<bool> used(plan_.slots);
    for (const PlanArgument& output : plan_.outputs) {
      if (output.kind == Kind::kSlot) used[output.index] = true;
    }
    const auto mark = [&used](PlanArgument& argument) {
      if (argument.kind != Kind::kSlot) return;
      argument.last_use = !used[argument.index];
      used[argument.index] = true;
    };
    for (auto node = plan_.nodes.rbegin(); node != plan_.nodes.rend(); ++node) {
      for (auto argument = node->arguments.rbegin(); argument != node->arguments.rend();
           ++argument) {
        for (auto element = argument->elements.rbegin(); element != argument->elements.rend();
             ++element) {
          mark(*element);
        }
        mark(*argument);
      }
      // What nobody uses is not kept.
      for (PlanOutput& output : node->outputs) {
        for (size_t& slot : output.slots) {
          if (slot != PlanOutput::kUnused && !used[slot]) slot = PlanOutput::kUnused;
        }
      }
    }
  }

  const Graph& graph_;
  Plan plan_;
  PlanValues values_;
  ArgumentPlanner arguments_;
  std::vector<std::vector<size_t>> roots_;  // by slot
};

}  // namespace

at::Tensor WrappedNumber(const c10::Scalar& number) {
  at::Tensor tensor = at::scalar_to_tensor(number);
  tensor.unsafeGetTensorImpl()->set_wrapped_number(true);
  return tensor;
}

absl::StatusOr<Plan> PlanOf(const Graph& graph) { return Planner(graph).Run(); }

std::string Describe(const GraphNode& node) {
  const std::string op = node.overload.empty() || node.overload == "default"
                             ? node.op
                             : absl::StrCat(node.op, ".", node.overload);
  return absl::StrCat("node ", Quoted(node.name), " (", Quoted(op), ")");
}

}  // namespace sconce::models
