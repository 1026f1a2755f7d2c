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

namespace sconce::models {
namespace {

using Kind = PlanArgument::Kind;
using Want = PlanArgument::Want;
using c10::TypeKind;

absl::Status Invalid(const std::string& message) { return absl::InvalidArgumentError(message); }

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
  explicit Planner(const Graph& graph) : graph_(graph), places_(graph.value_names.size()) {}

  absl::StatusOr<Plan> Run() {
    if (absl::Status defined = DefineHeld(); !defined.ok()) return defined;
    for (const GraphInput& input : graph_.inputs) {
      if (absl::Status defined = DefineSlot(input.value, true); !defined.ok()) return defined;
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
      absl::StatusOr<PlanArgument> source = PlaceOf(output.value, Want::kTensor);
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
  // Where a value is while the program runs.
  struct Place {
    bool defined = false;
    bool held = false;
    bool is_tensor = true;
    size_t index = 0;
  };

  absl::StatusOr<Place*> Define(ValueId value) {
    if (value.index < 0 || static_cast<size_t>(value.index) >= places_.size()) {
      return Invalid("expected a value of the program, got another");
    }
    Place& place = places_[static_cast<size_t>(value.index)];
    if (place.defined) {
      return Invalid(absl::StrCat("expected each value to be made once, got ",
                                  Quoted(graph_.value_names[static_cast<size_t>(value.index)]),
                                  " again"));
    }
    place.defined = true;
    return &place;
  }

  absl::Status DefineHeld() {
    std::vector<ValueId> held;
    for (const GraphWeight& weight : graph_.weights) held.push_back(weight.value);
    for (const GraphConstant& constant : graph_.constants) held.push_back(constant.value);
    for (; held_ < held.size(); ++held_) {
      absl::StatusOr<Place*> place = Define(held[held_]);
      if (!place.ok()) return place.status();
      **place = {.defined = true, .held = true, .index = held_};
    }
    return absl::OkStatus();
  }

  absl::Status DefineSlot(ValueId value, bool is_tensor) {
    absl::StatusOr<Place*> place = Define(value);
    if (!place.ok()) return place.status();
    **place = {.defined = true, .is_tensor = is_tensor, .index = plan_.slots++};
    return absl::OkStatus();
  }

  bool IsNumber(ValueId value) const {
    return value.index >= 0 && static_cast<size_t>(value.index) < places_.size() &&
           !places_[static_cast<size_t>(value.index)].is_tensor;
  }

  absl::StatusOr<PlanArgument> PlaceOf(ValueId value, Want want) const {
    if (value.index < 0 || static_cast<size_t>(value.index) >= places_.size()) {
      return Invalid("expected a value of the program, got another");
    }
    const Place& place = places_[static_cast<size_t>(value.index)];
    const std::string name = Quoted(graph_.value_names[static_cast<size_t>(value.index)]);
    if (!place.defined) {
      return Invalid(absl::StrCat("expected a value that is made before, got ", name));
    }
    if (place.is_tensor != (want == Want::kTensor)) {
      return Invalid(absl::StrCat("expected ", place.is_tensor ? "a number" : "a tensor", ", got ",
                                  name, ", which is ", place.is_tensor ? "a tensor" : "a number"));
    }
    return PlanArgument{
        .kind = place.held ? Kind::kHeld : Kind::kSlot, .want = want, .index = place.index};
  }

  std::string HeldName(size_t index) const {
    const size_t weights = graph_.weights.size();
    return Quoted(index < weights ? graph_.weights[index].name
                                  : graph_.constants[index - weights].name);
  }

  PlanArgument Literal(c10::IValue value) {
    plan_.literals.push_back(std::move(value));
    return {.kind = Kind::kHeld, .index = held_ + plan_.literals.size() - 1};
  }

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
    absl::StatusOr<std::vector<const Argument*>> given = Match(node, schema);
    if (!given.ok()) return given.status();
    const bool has_tensors = std::any_of(
        schema.arguments().begin(), schema.arguments().end(),
        [](const auto& argument) { return argument.type()->kind() == TypeKind::TensorType; });
    for (size_t i = 0; i < schema.arguments().size(); ++i) {
      const c10::Argument& wanted = schema.arguments()[i];
      absl::StatusOr<PlanArgument> argument = Convert(wanted, (*given)[i], has_tensors);
      if (!argument.ok()) {
        return absl::Status(
            argument.status().code(),
            absl::StrCat("argument '", wanted.name(), "': ", argument.status().message()));
      }
      const c10::AliasInfo* alias = wanted.alias_info();
      if (alias != nullptr && alias->isWrite()) {
        if (argument->kind == Kind::kHeld && argument->index < held_) {
          return absl::UnimplementedError(absl::StrCat("it changes the program's own ",
                                                       HeldName(argument->index),
                                                       " in place, which is not supported"));
        }
        if (argument->kind == Kind::kHeld && LiteralOf(*argument).isTensor()) {
          return Invalid("it changes a number in place");
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
      return Invalid(absl::StrCat("expected ", planned.symbolic->operands, " arguments, got ",
                                  node.arguments.size()));
    }
    for (const NamedArgument& argument : node.arguments) {
      absl::StatusOr<PlanArgument> number = Number(argument.value);
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
      return Invalid("expected a tensor and the number of a dimension");
    }
    absl::StatusOr<PlanArgument> source = PlaceOf(*tensor, Want::kTensor);
    if (!source.ok()) return source.status();
    planned.arguments.push_back(*std::move(source));
    planned.arguments.push_back(Literal(std::get<int64_t>(node.arguments[1].value.variant)));
    return AddNumber(node, std::move(planned));
  }

  // A node whose one result is a number.
  absl::Status AddNumber(const GraphNode& node, PlanNode planned) {
    if (node.outputs.size() != 1 || node.outputs[0].is_list || node.outputs[0].values.size() != 1) {
      return Invalid("expected one result");
    }
    if (absl::Status defined = DefineSlot(node.outputs[0].values[0], false); !defined.ok()) {
      return defined;
    }
    roots_.emplace_back();
    planned.outputs.push_back({.slots = {plan_.slots - 1}});
    plan_.nodes.push_back(std::move(planned));
    return absl::OkStatus();
  }

  // For each argument of the schema what the node gives; null: nothing.
  static absl::StatusOr<std::vector<const Argument*>> Match(const GraphNode& node,
                                                            const c10::FunctionSchema& schema) {
    std::vector<const Argument*> given(schema.arguments().size());
    size_t next = 0;
    for (const NamedArgument& argument : node.arguments) {
      size_t place = next;
      if (!argument.name.empty()) {
        const std::optional<int> found = schema.argumentIndexWithName(argument.name);
        if (!found.has_value()) {
          return Invalid(absl::StrCat("expected one of the operator's arguments, got ",
                                      Quoted(argument.name)));
        }
        place = static_cast<size_t>(*found);
      }
      if (place >= given.size()) {
        return Invalid(absl::StrCat("expected ", given.size(), " arguments, got more"));
      }
      if (given[place] != nullptr) {
        return Invalid(absl::StrCat("expected argument '", schema.arguments()[place].name(),
                                    "' once, got it twice"));
      }
      given[place] = &argument.value;
      next = place + 1;
    }
    return given;
  }

  absl::StatusOr<PlanArgument> Convert(const c10::Argument& wanted, const Argument* given,
                                       bool has_tensors) {
    const bool is_device = wanted.type()->kind() == TypeKind::DeviceObjType ||
                           (wanted.type()->kind() == TypeKind::OptionalType &&
                            wanted.type()->castRaw<c10::OptionalType>()->getElementType()->kind() ==
                                TypeKind::DeviceObjType);
    // An operator with tensors works on their device unless it is told another; one without would
    // work on the CPU.
    if (is_device && ((given != nullptr && !IsNone(*given)) || !has_tensors)) {
      return PlanArgument{.kind = Kind::kDevice};
    }
    // It says where the program was exported, not where it runs.
    if (wanted.name() == "cudnn_enabled") return Literal(true);
    if (wanted.name() == "pin_memory") return Literal(c10::IValue());
    if (given != nullptr) return Value(wanted.real_type(), wanted.N(), *given);
    if (!wanted.default_value().has_value()) return Invalid("expected a value, got none");
    return Literal(*wanted.default_value());
  }

  absl::StatusOr<PlanArgument> Value(const c10::TypePtr& type, std::optional<int32_t> length,
                                     const Argument& given) {
    const auto mismatch = [&type] {
      return Invalid(
          absl::StrCat("expected a value of the type ", type->repr_str(), ", got one of another"));
    };
    if (const auto* id = std::get_if<ValueId>(&given.variant)) {
      switch (type->kind()) {
        case TypeKind::OptionalType:
          return Value(type->castRaw<c10::OptionalType>()->getElementType(), length, given);
        case TypeKind::TensorType:
          return PlaceOf(*id, IsNumber(*id) ? Want::kWrappedNumber : Want::kTensor);
        case TypeKind::IntType:
        case TypeKind::SymIntType:
          return PlaceOf(*id, Want::kInt);
        case TypeKind::FloatType:
        case TypeKind::SymFloatType:
          return PlaceOf(*id, Want::kDouble);
        case TypeKind::BoolType:
        case TypeKind::SymBoolType:
          return PlaceOf(*id, Want::kBool);
        case TypeKind::NumberType:
          return PlaceOf(*id, Want::kNumber);
        case TypeKind::ListType:
          // `int[2] stride` may be given one number for both.
          if (length.has_value() && *length > 0 && *length <= 8) {
            return List(type, std::vector<Argument>(static_cast<size_t>(*length), given));
          }
          return mismatch();
        default:
          return mismatch();
      }
    }
    switch (type->kind()) {
      case TypeKind::OptionalType:
        if (IsNone(given)) return Literal(c10::IValue());
        return Value(type->castRaw<c10::OptionalType>()->getElementType(), length, given);
      case TypeKind::IntType:
      case TypeKind::SymIntType:
        // Programs write layouts and the like as the numbers that they are.
        if (const auto* value = std::get_if<int64_t>(&given.variant)) return Literal(*value);
        return mismatch();
      case TypeKind::ScalarTypeType:
        if (const auto* value = std::get_if<c10::ScalarType>(&given.variant)) {
          return Literal(static_cast<int64_t>(*value));
        }
        return mismatch();
      case TypeKind::LayoutType:
        if (const auto* value = std::get_if<c10::Layout>(&given.variant)) {
          if (*value != c10::kStrided) {
            return absl::UnimplementedError("expected a dense layout, got another");
          }
          return Literal(static_cast<int64_t>(*value));
        }
        return mismatch();
      case TypeKind::MemoryFormatType:
        if (const auto* value = std::get_if<c10::MemoryFormat>(&given.variant)) {
          return Literal(static_cast<int64_t>(*value));
        }
        return mismatch();
      case TypeKind::FloatType:
      case TypeKind::SymFloatType:
        if (const auto* value = std::get_if<double>(&given.variant)) return Literal(*value);
        if (const auto* value = std::get_if<int64_t>(&given.variant)) {
          return Literal(static_cast<double>(*value));
        }
        return mismatch();
      case TypeKind::BoolType:
      case TypeKind::SymBoolType:
        if (const auto* value = std::get_if<bool>(&given.variant)) return Literal(*value);
        return mismatch();
      case TypeKind::NumberType:
        return Number(given);
      case TypeKind::StringType:
        if (const auto* value = std::get_if<std::string>(&given.variant)) return Literal(*value);
        return mismatch();
      case TypeKind::TensorType: {
        const absl::StatusOr<PlanArgument> number = Number(given);
        if (!number.ok()) return mismatch();
        const c10::Scalar scalar = LiteralOf(*number).toScalar();
        return Literal(WrappedNumber(scalar));
      }
      case TypeKind::ListType:
        if (const auto* elements = std::get_if<std::vector<Argument>>(&given.variant)) {
          return List(type, *elements);
        }
        if (length.has_value() && *length > 0 && *length <= 8 && !IsNone(given)) {
          return List(type, std::vector<Argument>(static_cast<size_t>(*length), given));
        }
        return mismatch();
      default:
        return absl::UnimplementedError(
            absl::StrCat("values of the type ", type->repr_str(), " are not supported"));
    }
  }

  absl::StatusOr<PlanArgument> Number(const Argument& given) {
    if (const auto* id = std::get_if<ValueId>(&given.variant)) return PlaceOf(*id, Want::kNumber);
    if (const auto* value = std::get_if<int64_t>(&given.variant)) return Literal(*value);
    if (const auto* value = std::get_if<double>(&given.variant)) return Literal(*value);
    if (const auto* value = std::get_if<bool>(&given.variant)) return Literal(*value);
    if (const auto* value = std::get_if<c10::complex<double>>(&given.variant)) {
      return Literal(*value);
    }
    return Invalid("expected a number, got something else");
  }

  absl::StatusOr<PlanArgument> List(const c10::TypePtr& type,
                                    const std::vector<Argument>& elements) {
    c10::TypePtr element = type->castRaw<c10::ListType>()->getElementType();
    PlanArgument list;
    bool is_optional = false;
    if (element->kind() == TypeKind::OptionalType) {
      is_optional = true;
      element = element->castRaw<c10::OptionalType>()->getElementType();
    }
    switch (element->kind()) {
      case TypeKind::TensorType:
        list.kind = is_optional ? Kind::kOptionalTensorList : Kind::kTensorList;
        break;
      case TypeKind::IntType:
      case TypeKind::SymIntType:
        list.kind = Kind::kIntList;
        break;
      case TypeKind::FloatType:
        list.kind = Kind::kDoubleList;
        break;
      case TypeKind::BoolType:
      case TypeKind::NumberType:
        return LiteralList(element, elements);
      default:
        return absl::UnimplementedError(
            absl::StrCat("values of the type ", type->repr_str(), " are not supported"));
    }
    bool is_literal = list.kind == Kind::kIntList || list.kind == Kind::kDoubleList;
    for (const Argument& given : elements) {
      if (is_optional && IsNone(given)) {
        list.elements.push_back(Literal(c10::IValue()));
        continue;
      }
      absl::StatusOr<PlanArgument> value = Value(element, std::nullopt, given);
      if (!value.ok()) return value;
      is_literal &= value->kind == Kind::kHeld;
      list.elements.push_back(*std::move(value));
    }
    if (!is_literal) return list;
    if (list.kind == Kind::kIntList) {
      c10::List<int64_t> numbers;
      for (const PlanArgument& value : list.elements) numbers.push_back(LiteralOf(value).toInt());
      return Literal(std::move(numbers));
    }
    c10::List<double> numbers;
    for (const PlanArgument& value : list.elements) numbers.push_back(LiteralOf(value).toDouble());
    return Literal(std::move(numbers));
  }

  const c10::IValue& LiteralOf(const PlanArgument& held) const {
    return plan_.literals[held.index - held_];
  }

  absl::StatusOr<PlanArgument> LiteralList(const c10::TypePtr& element,
                                           const std::vector<Argument>& elements) {
    c10::impl::GenericList list(element);
    for (const Argument& given : elements) {
      absl::StatusOr<PlanArgument> value = Value(element, std::nullopt, given);
      if (!value.ok()) return value;
      if (value->kind != Kind::kHeld) {
        return absl::UnimplementedError("expected numbers that are known before it runs");
      }
      list.push_back(LiteralOf(*value));
    }
    if (element->kind() != TypeKind::BoolType) return Literal(std::move(list));
    return Literal(c10::impl::toTypedList<bool>(std::move(list)));
  }

  absl::Status AddOutputs(const GraphNode& node, const c10::FunctionSchema& schema,
                          PlanNode& planned) {
    const auto& returns = schema.returns();
    if (node.outputs.size() != returns.size() &&
        !(node.outputs.empty() ||
          (returns.empty() && node.outputs.size() == 1 && node.outputs[0].values.empty()))) {
      return Invalid(
          absl::StrCat("expected ", returns.size(), " results, got ", node.outputs.size()));
    }
    for (size_t i = 0; i < returns.size() && i < node.outputs.size(); ++i) {
      const NodeOutput& output = node.outputs[i];
      const TypeKind kind = returns[i].type()->kind();
      if (output.is_list != (kind == TypeKind::ListType) ||
          (!output.is_list && output.values.size() != 1)) {
        return Invalid("expected results as the operator gives them, got others");
      }
      const std::vector<size_t> roots = RootsOfResult(schema, returns[i], planned);
      PlanOutput slots{.slots = {}, .is_list = output.is_list};
      for (const ValueId value : output.values) {
        if (value.index == -1) {
          slots.slots.push_back(PlanOutput::kUnused);
          continue;
        }
        const bool is_tensor = output.is_list || kind == TypeKind::TensorType;
        if (absl::Status defined = DefineSlot(value, is_tensor); !defined.ok()) return defined;
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
  std::vector<Place> places_;               // by value
  size_t held_ = 0;                         // weights and constants
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
