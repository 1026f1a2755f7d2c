#include "models/program/plan_values.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "models/architecture.h"

namespace sconce::models {
namespace {

using Kind = PlanArgument::Kind;
using Want = PlanArgument::Want;

}  // namespace

absl::StatusOr<PlanValues::Place*> PlanValues::Define(ValueId value) {
  if (value.index < 0 || static_cast<size_t>(value.index) >= places_.size()) {
    return absl::InvalidArgumentError("expected a value of the program, got another");
  }
  Place& place = places_[static_cast<size_t>(value.index)];
  if (place.defined) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected each value to be made once, got ",
                     Quoted(graph_.value_names[static_cast<size_t>(value.index)]), " again"));
  }
  place.defined = true;
  return &place;
}

absl::Status PlanValues::DefineHeld() {
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

absl::Status PlanValues::DefineSlot(ValueId value, bool is_tensor) {
  absl::StatusOr<Place*> place = Define(value);
  if (!place.ok()) return place.status();
  **place = {.defined = true, .is_tensor = is_tensor, .index = plan_.slots++};
  return absl::OkStatus();
}

bool PlanValues::IsNumber(ValueId value) const {
  return value.index >= 0 && static_cast<size_t>(value.index) < places_.size() &&
         !places_[static_cast<size_t>(value.index)].is_tensor;
}

absl::StatusOr<PlanArgument> PlanValues::PlaceOf(ValueId value, Want want) const {
  if (value.index < 0 || static_cast<size_t>(value.index) >= places_.size()) {
    return absl::InvalidArgumentError("expected a value of the program, got another");
  }
  const Place& place = places_[static_cast<size_t>(value.index)];
  const std::string name = Quoted(graph_.value_names[static_cast<size_t>(value.index)]);
  if (!place.defined) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected a value that is made before, got ", name));
  }
  if (place.is_tensor != (want == Want::kTensor)) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected ", place.is_tensor ? "a number" : "a tensor", ", got ", name,
                     ", which is ", place.is_tensor ? "a tensor" : "a number"));
  }
  return PlanArgument{
      .kind = place.held ? Kind::kHeld : Kind::kSlot, .want = want, .index = place.index};
}

PlanArgument PlanValues::Literal(c10::IValue value) {
  plan_.literals.push_back(std::move(value));
  return {.kind = Kind::kHeld, .index = held_ + plan_.literals.size() - 1};
}

const c10::IValue& PlanValues::LiteralOf(const PlanArgument& held) const {
  return plan_.literals[held.index - held_];
}

std::string PlanValues::DescribeHeld(const PlanArgument& held) const {
  const size_t weights = graph_.weights.size();
  if (held.index >= weights) {
    return absl::StrCat("constant ", Quoted(graph_.constants[held.index - weights].name));
  }
  const GraphWeight& weight = graph_.weights[held.index];
  return absl::StrCat(weight.is_parameter ? "parameter " : "buffer ", Quoted(weight.name));
}

}  // namespace sconce::models
