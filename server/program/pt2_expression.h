// ParseSizeExpression: a size as an exported program's archive writes it, in SymPy's words:
//
//   size     = "Symbol(" name flag* ")" | "Integer(" number ")" | function "(" size ("," size)* ")"
//   name     = "'" text "'"
//   flag     = ", " word "=" word
//   function = "Add" | "Mul" | "Pow" | "FloorDiv" | "Mod" | "PythonMod" | "Max" | "Min"
//
// A pure function.

#ifndef SCONCE_SERVER_PROGRAM_PT2_EXPRESSION_H_
#define SCONCE_SERVER_PROGRAM_PT2_EXPRESSION_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "models/program/graph.h"

namespace sconce {

// `symbol_of`: the index of a symbol by its name. UNIMPLEMENTED where the text is something else.
absl::StatusOr<models::SizeExpression> ParseSizeExpression(
    std::string_view text, const std::function<int32_t(const std::string& name)>& symbol_of);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_PT2_EXPRESSION_H_
