// Arithmetic on numbers within a program: what export leaves of a module's calculations with sizes.
// In a graph their operators are "sym::add" and so on. Pure functions; callable from any thread.
#ifndef SCONCE_MODELS_PROGRAM_SYMBOLIC_OPS_H_
#define SCONCE_MODELS_PROGRAM_SYMBOLIC_OPS_H_

#include <ATen/core/ivalue.h>

#include <cstddef>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace sconce::models {

struct SymbolicOp {
  absl::string_view name;  // "add"
  size_t operands;
  // Integers (and truth values) give integers where Python's do; anything else is calculated in
  // double precision. Throws c10::Error on overflow, division by zero and what is no number.
  c10::IValue (*calculate)(absl::Span<const c10::IValue> operands);
};

// add, sub, mul, floordiv, truediv, mod, pow, neg, pos, eq, ne, lt, le, gt, ge, and, or, not, max,
// min, ite, int, float, sqrt, trunc, floor, ceil, lshift, rshift. Null for others.
const SymbolicOp* FindSymbolicOp(absl::string_view name);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_PROGRAM_SYMBOLIC_OPS_H_
