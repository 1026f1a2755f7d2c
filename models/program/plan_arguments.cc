#include "models/program/plan_arguments.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "models/architecture.h"

namespace sconce::models {
namespace {

using Kind = PlanArgument::Kind;
using Want = PlanArgument::Want;
using c10::TypeKind;

absl::Status Mismatch(const c10::TypePtr& type) {
  return absl::InvalidArgumentError(
      absl::StrCat("expected a value of the type ", type->repr_str(), ", got one of another"));
}

bool IsNone(const Argument& argument) {
  return std::holds_alternative<Argument::None>(argument.variant);
}

}  // namespace

absl::StatusOr<std::vector<const Argument*>> MatchArguments(const GraphNode& node,
                                                            const c10::FunctionSchema& schema) {
  std::vector<const Argument*> given(schema.arguments().size());
  size_t next = 0;
  for (const NamedArgument& argument : node.arguments) {
    size_t place = next;
    if (!argument.name.empty()) {
      const std::optional<int> found = schema.argumentIndexWithName(argument.name);
      if (!found.has_value()) {
        return absl::InvalidArgumentError(
            absl::StrCat("expected one of the operator's arguments, got ", Quoted(argument.name)));
      }
      place = static_cast<size_t>(*found);
    }
    if (place >= given.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("expected ", given.size(), " arguments, got more"));
    }
    if (given[place] != nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(
          "expected argument '", schema.arguments()[place].name(), "' once, got it twice"));
    }
    given[place] = &argument.value;
    next = place + 1;
  }
  return given;
}

absl::StatusOr<PlanArgument> ArgumentPlanner::Convert(const c10::Argument& wanted,
                                                      const Argument* given, bool has_tensors) {
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
  if (wanted.name() == "cudnn_enabled") return values_.Literal(true);
  if (wanted.name() == "pin_memory") return values_.Literal(c10::IValue());
  if (given != nullptr) return Value(wanted.real_type(), wanted.N(), *given);
  if (!wanted.default_value().has_value())
    return absl::InvalidArgumentError("expected a value, got none");
  return values_.Literal(*wanted.default_value());
}

absl::StatusOr<PlanArgument> ArgumentPlanner::Value(const c10::TypePtr& type,
                                                    std::optional<int32_t> length,
                                                    const Argument& given) {
  if (const auto* id = std::get_if<ValueId>(&given.variant)) {
    return ValueThatIsMade(type, length, given, *id);
  }
  switch (type->kind()) {
    case TypeKind::OptionalType:
      if (IsNone(given)) return values_.Literal(c10::IValue());
      return Value(type->castRaw<c10::OptionalType>()->getElementType(), length, given);
    case TypeKind::IntType:
    case TypeKind::SymIntType:
      // Programs write layouts and the like as the numbers that they are.
      if (const auto* value = std::get_if<int64_t>(&given.variant)) return values_.Literal(*value);
      return Mismatch(type);
    case TypeKind::ScalarTypeType:
      if (const auto* value = std::get_if<c10::ScalarType>(&given.variant)) {
        return values_.Literal(static_cast<int64_t>(*value));
      }
      return Mismatch(type);
    case TypeKind::LayoutType:
      if (const auto* value = std::get_if<c10::Layout>(&given.variant)) {
        if (*value != c10::kStrided) {
          return absl::UnimplementedError("expected a dense layout, got another");
        }
        return values_.Literal(static_cast<int64_t>(*value));
      }
      return Mismatch(type);
    case TypeKind::MemoryFormatType:
      if (const auto* value = std::get_if<c10::MemoryFormat>(&given.variant)) {
        return values_.Literal(static_cast<int64_t>(*value));
      }
      return Mismatch(type);
    case TypeKind::FloatType:
    case TypeKind::SymFloatType:
      if (const auto* value = std::get_if<double>(&given.variant)) return values_.Literal(*value);
      if (const auto* value = std::get_if<int64_t>(&given.variant)) {
        return values_.Literal(static_cast<double>(*value));
      }
      return Mismatch(type);
    case TypeKind::BoolType:
    case TypeKind::SymBoolType:
      if (const auto* value = std::get_if<bool>(&given.variant)) return values_.Literal(*value);
      return Mismatch(type);
    case TypeKind::NumberType:
      return Number(given);
    case TypeKind::StringType:
      if (const auto* value = std::get_if<std::string>(&given.variant)) {
        return values_.Literal(*value);
      }
      return Mismatch(type);
    case TypeKind::TensorType: {
      const absl::StatusOr<PlanArgument> number = Number(given);
      if (!number.ok()) return Mismatch(type);
      const c10::Scalar scalar = values_.LiteralOf(*number).toScalar();
      return values_.Literal(WrappedNumber(scalar));
    }
    case TypeKind::ListType:
      if (const auto* elements = std::get_if<std::vector<Argument>>(&given.variant)) {
        return List(type, *elements);
      }
      if (length.has_value() && *length > 0 && *length <= 8 && !IsNone(given)) {
        return List(type, std::vector<Argument>(static_cast<size_t>(*length), given));
      }
      return Mismatch(type);
    default:
      return absl::UnimplementedError(
          absl::StrCat("values of the type ", type->repr_str(), " are not supported"));
  }
}

absl::StatusOr<PlanArgument> ArgumentPlanner::ValueThatIsMade(const c10::TypePtr& type,
                                                              std::optional<int32_t> length,
                                                              const Argument& given, ValueId id) {
  switch (type->kind()) {
    case TypeKind::OptionalType:
      return Value(type->castRaw<c10::OptionalType>()->getElementType(), length, given);
    case TypeKind::TensorType:
      return values_.PlaceOf(id, values_.IsNumber(id) ? Want::kWrappedNumber : Want::kTensor);
    case TypeKind::IntType:
    case TypeKind::SymIntType:
      return values_.PlaceOf(id, Want::kInt);
    case TypeKind::FloatType:
    case TypeKind::SymFloatType:
      return values_.PlaceOf(id, Want::kDouble);
    case TypeKind::BoolType:
    case TypeKind::SymBoolType:
      return values_.PlaceOf(id, Want::kBool);
    case TypeKind::NumberType:
      return values_.PlaceOf(id, Want::kNumber);
    case TypeKind::ListType:
      // `int[2] stride` may be given one number for both.
      if (length.has_value() && *length > 0 && *length <= 8) {
        return List(type, std::vector<Argument>(static_cast<size_t>(*length), given));
      }
      return Mismatch(type);
    default:
      return Mismatch(type);
  }
}

absl::StatusOr<PlanArgument> ArgumentPlanner::Number(const Argument& given) {
  if (const auto* id = std::get_if<ValueId>(&given.variant)) {
    return values_.PlaceOf(*id, Want::kNumber);
  }
  if (const auto* value = std::get_if<int64_t>(&given.variant)) return values_.Literal(*value);
  if (const auto* value = std::get_if<double>(&given.variant)) return values_.Literal(*value);
  if (const auto* value = std::get_if<bool>(&given.variant)) return values_.Literal(*value);
  if (const auto* value = std::get_if<c10::complex<double>>(&given.variant)) {
    return values_.Literal(*value);
  }
  return absl::InvalidArgumentError("expected a number, got something else");
}

absl::StatusOr<PlanArgument> ArgumentPlanner::List(const c10::TypePtr& type,
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
      list.elements.push_back(values_.Literal(c10::IValue()));
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
    for (const PlanArgument& value : list.elements) {
      numbers.push_back(values_.LiteralOf(value).toInt());
    }
    return values_.Literal(std::move(numbers));
  }
  c10::List<double> numbers;
  for (const PlanArgument& value : list.elements) {
    numbers.push_back(values_.LiteralOf(value).toDouble());
  }
  return values_.Literal(std::move(numbers));
}

absl::StatusOr<PlanArgument> ArgumentPlanner::LiteralList(const c10::TypePtr& element,
                                                          const std::vector<Argument>& elements) {
  c10::impl::GenericList list(element);
  for (const Argument& given : elements) {
    absl::StatusOr<PlanArgument> value = Value(element, std::nullopt, given);
    if (!value.ok()) return value;
    if (value->kind != Kind::kHeld) {
      return absl::UnimplementedError("expected numbers that are known before it runs");
    }
    list.push_back(values_.LiteralOf(*value));
  }
  if (element->kind() != TypeKind::BoolType) return values_.Literal(std::move(list));
  return values_.Literal(c10::impl::toTypedList<bool>(std::move(list)));
}

}  // namespace sconce::models
