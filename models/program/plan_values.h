// PlanValues: where each value of a graph is while the program runs: held by the network (weights,
// constants, literals), or in a slot that a node fills.
//
// Used by one thread while a plan is made; graph and plan outlive it.
#ifndef SCONCE_MODELS_PROGRAM_PLAN_VALUES_H_
#define SCONCE_MODELS_PROGRAM_PLAN_VALUES_H_

#include <ATen/core/ivalue.h>

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/program/graph.h"
#include "models/program/plan.h"

namespace sconce::models {

class PlanValues {
 public:
  PlanValues(const Graph& graph, Plan& plan)
      : graph_(graph), plan_(plan), places_(graph.value_names.size()) {}

  // The weights and constants, in this order; called first.
  absl::Status DefineHeld();
  // The next slot.
  absl::Status DefineSlot(ValueId value, bool is_tensor);

  // Whether the value is one that a node makes, and no tensor.
  bool IsNumber(ValueId value) const;

  // InvalidArgument where the value is not made before, or is not what is wanted.
  absl::StatusOr<PlanArgument> PlaceOf(ValueId value, PlanArgument::Want want) const;

  // A value that is known now.
  PlanArgument Literal(c10::IValue value);
  // REQUIRES: made by Literal.
  const c10::IValue& LiteralOf(const PlanArgument& held) const;

  // Whether it is a weight or a constant.
  bool IsOfProgram(const PlanArgument& argument) const {
    return argument.kind == PlanArgument::Kind::kHeld && argument.index < held_;
  }
  // 'buffer "running_mean"'. REQUIRES: IsOfProgram.
  std::string DescribeHeld(const PlanArgument& held) const;

 private:
  struct Place {
    bool defined = false;
    bool held = false;
    bool is_tensor = true;
    size_t index = 0;
  };

  absl::StatusOr<Place*> Define(ValueId value);

  const Graph& graph_;
  Plan& plan_;
  std::vector<Place> places_;  // by value
  size_t held_ = 0;            // weights and constants
};

}  // namespace sconce::models

#endif  // SCONCE_MODELS_PROGRAM_PLAN_VALUES_H_
