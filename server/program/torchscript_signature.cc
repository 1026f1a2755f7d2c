#include "server/program/torchscript_signature.h"

#include <ATen/core/Dict.h>
#include <ATen/core/List.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/jit_type.h>

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/printable.h"

namespace sconce {
namespace {

// "INPUT__3" is tensor 3.
std::optional<size_t> PlaceIn(const std::string& name) {
  const size_t mark = name.rfind("__");
  if (mark == std::string::npos || mark + 2 == name.size()) return std::nullopt;
  const std::string digits = name.substr(mark + 2);
  size_t place = 0;
  if (digits.find_first_not_of("0123456789") != std::string::npos ||
      !absl::SimpleAtoi(digits, &place)) {
    return std::nullopt;
  }
  return place;
}

bool IsTensor(const c10::TypePtr& type) { return type->kind() == c10::TypeKind::TensorType; }

bool IsOptionalTensor(const c10::TypePtr& type) {
  const auto optional = type->cast<c10::OptionalType>();
  return optional != nullptr && IsTensor(optional->getElementType());
}

bool TakesTensor(const c10::Argument& argument) {
  return IsTensor(argument.type()) || IsOptionalTensor(argument.type());
}

bool HasDefault(const c10::Argument& argument) {
  return argument.default_value().has_value() || IsOptionalTensor(argument.type());
}

// forward's arguments after self.
std::vector<c10::Argument> ArgumentsOf(const c10::FunctionSchema& forward) {
  return {forward.arguments().begin() + 1, forward.arguments().end()};
}

std::string NamesOf(const std::vector<c10::Argument>& arguments) {
  return absl::StrJoin(arguments, ", ", [](std::string* out, const c10::Argument& argument) {
    absl::StrAppend(out, Printable(argument.name()), ": ", Printable(argument.type()->repr_str()));
  });
}

absl::Status CheckArguments(const std::vector<c10::Argument>& arguments) {
  for (const c10::Argument& argument : arguments) {
    if (TakesTensor(argument) || HasDefault(argument)) continue;
    return absl::UnimplementedError(absl::StrCat(
        "forward's argument '", Printable(argument.name()), "': expected a tensor, got ",
        Printable(argument.type()->repr_str()), ", which has no default and is not supported"));
  }
  return absl::OkStatus();
}

// The types of a tuple's elements, or of a single result; none for a list or a dictionary.
absl::Status CheckResult(const c10::FunctionSchema& forward) {
  if (forward.returns().size() != 1) {
    return absl::UnimplementedError("forward: expected one result, got several or none");
  }
  const c10::TypePtr type = forward.returns()[0].type();
  bool good = IsTensor(type);
  if (const auto tuple = type->cast<c10::TupleType>()) {
    good = std::all_of(tuple->elements().begin(), tuple->elements().end(),
                       [](const c10::TypePtr& element) { return IsTensor(element); });
  } else if (const auto list = type->cast<c10::ListType>()) {
    good = IsTensor(list->getElementType());
  } else if (const auto dict = type->cast<c10::DictType>()) {
    good =
        IsTensor(dict->getValueType()) && dict->getKeyType()->kind() == c10::TypeKind::StringType;
  }
  if (good) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("forward: expected a tensor, a tuple or list of tensors, or a dictionary of "
                   "tensors by name as the result, got ",
                   Printable(type->repr_str()), ", which is not supported"));
}

absl::Status MustDeclare(const c10::FunctionSchema& forward,
                         const std::vector<c10::Argument>& arguments) {
  std::string name = "INPUT__0";
  for (const c10::Argument& argument : arguments) {
    if (!TakesTensor(argument)) continue;
    name = Printable(argument.name());
    break;
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "TorchScript does not say dtypes and shapes: write the inputs and outputs into config.pbtxt, "
      "for instance max_batch_size: 8 input [ { name: \"",
      name,
      "\" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] } ] output [ { name: \"OUTPUT__0\" data_type: "
      "TYPE_FP32 dims: [ 1000 ] } ]. forward takes (",
      NamesOf(arguments), ") and gives ", Printable(forward.returns()[0].type()->repr_str())));
}

absl::Status MatchInputs(const std::vector<c10::Argument>& arguments,
                         const std::vector<models::TensorSpec>& declared, ScriptCall& call) {
  call.inputs.assign(arguments.size(), std::nullopt);
  const auto argument_called = [&arguments](const std::string& name) -> std::optional<size_t> {
    for (size_t i = 0; i < arguments.size(); ++i) {
      if (arguments[i].name() == name) return i;
    }
    return std::nullopt;
  };
  for (size_t i = 0; i < declared.size(); ++i) {
    const std::string& name = declared[i].name;
    std::optional<size_t> place = argument_called(name);
    if (!place.has_value()) place = PlaceIn(name);
    if (!place.has_value() || *place >= arguments.size()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "config.pbtxt: input '", Printable(name),
          "': expected the name of an argument of forward, or one that ends in __0 for the first, "
          "__1 for the second and so on; forward takes (",
          NamesOf(arguments), ")"));
    }
    if (!TakesTensor(arguments[*place])) {
      return absl::FailedPreconditionError(
          absl::StrCat("config.pbtxt: input '", Printable(name), "': forward's argument '",
                       Printable(arguments[*place].name()), "' is no tensor but ",
                       Printable(arguments[*place].type()->repr_str())));
    }
    if (call.inputs[*place].has_value()) {
      return absl::FailedPreconditionError(
          absl::StrCat("config.pbtxt: input '", Printable(name), "': forward's argument '",
                       Printable(arguments[*place].name()), "' is given twice"));
    }
    call.inputs[*place] = i;
  }
  for (size_t i = 0; i < arguments.size(); ++i) {
    call.defaults.push_back(arguments[i].default_value().value_or(c10::IValue()));
    if (call.inputs[i].has_value() || HasDefault(arguments[i])) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "config.pbtxt: no input for forward's argument '", Printable(arguments[i].name()),
        "'; forward takes (", NamesOf(arguments), ")"));
  }
  return absl::OkStatus();
}

absl::Status MatchOutputs(const c10::TypePtr& result,
                          const std::vector<models::TensorSpec>& declared, ScriptCall& call) {
  if (result->kind() == c10::TypeKind::DictType) {
    for (const models::TensorSpec& output : declared) call.output_keys.push_back(output.name);
    return absl::OkStatus();
  }
  const auto tuple = result->cast<c10::TupleType>();
  const std::vector<std::string> fields = [&tuple] {
    std::vector<std::string> names;
    if (tuple == nullptr || tuple->schema() == nullptr) return names;
    for (const c10::Argument& field : tuple->schema()->arguments()) names.push_back(field.name());
    return names;
  }();
  for (size_t i = 0; i < declared.size(); ++i) {
    const std::string& name = declared[i].name;
    const auto field = std::find(fields.begin(), fields.end(), name);
    const size_t place = field != fields.end() ? static_cast<size_t>(field - fields.begin())
                                               : PlaceIn(name).value_or(i);
    const size_t count = tuple != nullptr ? tuple->elements().size() : 1;
    if (place >= count && result->kind() != c10::TypeKind::ListType) {
      return absl::FailedPreconditionError(absl::StrCat(
          "config.pbtxt: output '", Printable(name), "' is result ", place, ", expected less than ",
          count, ": forward gives ", Printable(result->repr_str())));
    }
    call.output_places.push_back(place);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ScriptCall> MatchCall(const c10::FunctionSchema& forward,
                                     const models::Signature& declared) {
  const std::vector<c10::Argument> arguments = ArgumentsOf(forward);
  for (const absl::Status& checked : {CheckArguments(arguments), CheckResult(forward)}) {
    if (!checked.ok()) return checked;
  }
  if (declared.inputs.empty() || declared.outputs.empty()) return MustDeclare(forward, arguments);
  ScriptCall call;
  absl::Status matched = MatchInputs(arguments, declared.inputs, call);
  if (matched.ok()) matched = MatchOutputs(forward.returns()[0].type(), declared.outputs, call);
  if (!matched.ok()) return matched;
  return call;
}

std::vector<at::Tensor> OutputsOf(const c10::IValue& result, const ScriptCall& call) {
  std::vector<at::Tensor> outputs;
  if (result.isGenericDict()) {
    const auto dict = result.toGenericDict();
    for (const std::string& key : call.output_keys) {
      const auto found = dict.find(key);
      TORCH_CHECK(found != dict.end(), "forward: expected '", Printable(key),
                  "' in the dictionary that it gives, got none");
      outputs.push_back(found->value().toTensor());
    }
    return outputs;
  }
  std::vector<at::Tensor> all;
  if (result.isTensor()) {
    all.push_back(result.toTensor());
  } else if (result.isTuple()) {
    for (const c10::IValue& element : result.toTupleRef().elements()) {
      all.push_back(element.toTensor());
    }
  } else {
    all = result.toTensorVector();
  }
  for (const size_t place : call.output_places) {
    TORCH_CHECK(place < all.size(), "forward: expected at least ", place + 1, " tensors, got ",
                all.size());
    outputs.push_back(all[place]);
  }
  return outputs;
}

}  // namespace sconce
