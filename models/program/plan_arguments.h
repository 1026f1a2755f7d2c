// ArgumentPlanner: what a node gives an operator becomes what the operator's schema wants, as far
// as it is known before the program runs.
//
// Used by one thread while a plan is made; the values outlive it.
#ifndef SCONCE_MODELS_PROGRAM_PLAN_ARGUMENTS_H_
#define SCONCE_MODELS_PROGRAM_PLAN_ARGUMENTS_H_

#include <ATen/core/function_schema.h>
#include <ATen/core/jit_type.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "models/program/graph.h"
#include "models/program/plan.h"
#include "models/program/plan_values.h"

namespace sconce::models {

// For each argument of the schema what the node gives; null: nothing.
absl::StatusOr<std::vector<const Argument*>> MatchArguments(const GraphNode& node,
                                                            const c10::FunctionSchema& schema);

class ArgumentPlanner {
 public:
  explicit ArgumentPlanner(PlanValues& values) : values_(values) {}

  // `given`: null where the node does not say it. `has_tensors`: whether the operator takes any.
  absl::StatusOr<PlanArgument> Convert(const c10::Argument& wanted, const Argument* given,
                                       bool has_tensors);

  // A number, known now or when the program runs.
  absl::StatusOr<PlanArgument> Number(const Argument& given);

 private:
  // `length`: of `int[2]`, 2.
  absl::StatusOr<PlanArgument> Value(const c10::TypePtr& type, std::optional<int32_t> length,
                                     const Argument& given);
  absl::StatusOr<PlanArgument> ValueThatIsMade(const c10::TypePtr& type,
                                               std::optional<int32_t> length, const Argument& given,
                                               ValueId id);
  absl::StatusOr<PlanArgument> List(const c10::TypePtr& type,
                                    const std::vector<Argument>& elements);
  absl::StatusOr<PlanArgument> LiteralList(const c10::TypePtr& element,
                                           const std::vector<Argument>& elements);

  PlanValues& values_;
};

}  // namespace sconce::models

#endif  // SCONCE_MODELS_PROGRAM_PLAN_ARGUMENTS_H_
