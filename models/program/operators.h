// Which of LibTorch's operators a program may call, and how one is found by its name. Functions,
// callable from any thread.
#ifndef SCONCE_MODELS_PROGRAM_OPERATORS_H_
#define SCONCE_MODELS_PROGRAM_OPERATORS_H_

#include <ATen/core/dispatch/Dispatcher.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sconce::models {

// The operator that a graph calls "aten::add" with the overload "Tensor". UNIMPLEMENTED where it is
// not one of those allowed: a list of ATen's operators that calculate. What reaches files, other
// memory or the process's state, and the operators of other libraries, are not in it, nor are those
// that write into an argument `out`.
absl::StatusOr<c10::OperatorHandle> FindOperator(const std::string& op,
                                                 const std::string& overload);

// Whether the operator's result is memory as it was found ("aten::empty").
bool LeavesMemoryUnwritten(absl::string_view op);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_PROGRAM_OPERATORS_H_
