// What an exported program's nodes call and what they give it, each as the archive's JSON has it.
// For the sources of this folder alone: throws BadProgram (pt2_json.h). Functions, callable from
// any thread.

#ifndef SCONCE_SERVER_PROGRAM_PT2_ARGUMENTS_H_
#define SCONCE_SERVER_PROGRAM_PT2_ARGUMENTS_H_

#include <c10/core/ScalarType.h>

#include <map>
#include <string>
#include <utility>

#include "models/program/graph.h"
#include "server/program/pt2_json.h"

namespace sconce {

// The values that are defined so far, by name.
using ValueScope = std::map<std::string, models::ValueId>;

// Operator and overload: "torch.ops.aten.add.Tensor" is {"aten::add", "Tensor"}, "_operator.mul" is
// {"sym::mul", ""}.
std::pair<std::string, std::string> OperatorOf(const std::string& target);

models::Argument ReadArgument(const Json& argument, const ValueScope& scope);

// An argument that is one value.
models::ValueId ReadValue(const Json& argument, const ValueScope& scope);

// The name of the one value that an argument is, or that a result becomes.
std::string ResultName(const Json& argument);

c10::ScalarType ScalarTypeOf(const Json& number);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_PT2_ARGUMENTS_H_
