// Graph: a program as data. What is computed, operator by operator, from inputs, parameters and
// constants, without any file's format: importers (server/program) write it, graph_net.h runs it.
//
// A value type, made by one thread and immutable once it is run. Nothing in it is believed: what
// runs it checks that values are defined before they are used, that operators are known and
// allowed, and that arguments are what the operators' schemas want.
#ifndef SCONCE_MODELS_PROGRAM_GRAPH_H_
#define SCONCE_MODELS_PROGRAM_GRAPH_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/Layout.h>
#include <c10/core/MemoryFormat.h>
#include <c10/core/ScalarType.h>
#include <c10/util/complex.h>

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "models/tensor_rules.h"

namespace sconce::models {

// Something computed while the program runs: a tensor, a number or a truth value. An index into
// Graph::value_names; each is defined once, by an input, a weight, a constant or a node.
struct ValueId {
  int32_t index = -1;

  bool operator==(const ValueId&) const = default;
};

// A size that is known only when the program runs, by which the batch, the length of a text or the
// height of an image may differ.
struct Symbol {
  std::string name;  // "s77"
  Range range = {.minimum = 0};
};

// A size: a number, a symbol, or arithmetic on them.
struct SizeExpression {
  enum class Kind {
    kConstant,
    kSymbol,
    kAdd,       // of all operands
    kMultiply,  // of all operands
    kFloorDivide,
    kModulo,  // never negative where the divisor is not
    kMaximum,
    kMinimum,
    kUnknown,  // any size; for outputs alone
  };

  Kind kind = Kind::kConstant;
  int64_t constant = 0;
  int32_t symbol = -1;  // index into Graph::symbols
  std::vector<SizeExpression> operands = {};

  static SizeExpression Constant(int64_t value) { return {.constant = value}; }
  static SizeExpression OfSymbol(int32_t symbol) {
    return {.kind = Kind::kSymbol, .symbol = symbol};
  }
  static SizeExpression Unknown() { return {.kind = Kind::kUnknown}; }

  bool operator==(const SizeExpression&) const = default;
};

// What an operator is given. The operator's schema says how it is read: a list of integers, say,
// may be `std::vector<Argument>` of numbers and of values. None stands for an optional argument
// that is not there.
struct Argument {
  using None = std::monostate;
  using Variant = std::variant<None, ValueId, bool, int64_t, double, c10::complex<double>,
                               std::string, c10::ScalarType, c10::Layout, c10::MemoryFormat,
                               c10::Device, std::vector<Argument>>;

  Argument() = default;
  template <typename T>
  requires(!std::is_same_v<std::remove_cvref_t<T>, Argument>) Argument(T value)
      : variant(std::move(value)) {}  // NOLINT: written as `{"dim", int64_t{1}}`

  Variant variant;
};

struct NamedArgument {
  std::string name;  // as the operator's schema has it; "": the next in order
  Argument value;
};

// What a node makes of one of its operator's results.
struct NodeOutput {
  // The result, or the elements of a result that is a list of tensors. An index of -1: it is not
  // used.
  std::vector<ValueId> values;
  bool is_list = false;
};

// One call. Operators are those of ATen that operators.h allows ("aten::add" with the overload
// "Tensor"), and arithmetic on numbers ("sym::add", without overload; symbolic_ops.h lists them).
struct GraphNode {
  std::string name;  // for messages
  std::string op;
  std::string overload;
  // Those not given have the schema's defaults. A device stands for wherever the program runs.
  std::vector<NamedArgument> arguments;
  std::vector<NodeOutput> outputs;  // one for each result of the operator
};

// A tensor that a request brings.
struct GraphInput {
  std::string name;
  ValueId value;
  c10::ScalarType dtype;
  std::vector<SizeExpression> sizes;  // no kUnknown
};

struct GraphOutput {
  std::string name;
  ValueId value;
  c10::ScalarType dtype;
  std::vector<SizeExpression> sizes;
};

// A parameter or persistent buffer: a tensor of the state_dict.
struct GraphWeight {
  std::string name;  // fully qualified: "layer1.0.conv1.weight"
  ValueId value;
  c10::ScalarType dtype;
  std::vector<int64_t> shape;
  bool is_parameter;  // else a buffer
};

// A tensor that is part of the program. On the CPU; whoever runs the program copies it.
struct GraphConstant {
  std::string name;
  ValueId value;
  at::Tensor tensor;
};

struct Graph {
  std::string class_name;  // of the module that it was made from: "ResNet"
  // The names of the module's submodules, where they are known beyond those of the weights.
  std::vector<std::string> module_names;
  std::vector<Symbol> symbols;
  std::vector<std::string> value_names;
  std::vector<GraphInput> inputs;
  std::vector<GraphOutput> outputs;
  std::vector<GraphWeight> weights;  // in the order of the state_dict
  std::vector<GraphConstant> constants;
  std::vector<GraphNode> nodes;  // in the order in which they run

  ValueId AddValue(std::string name) {
    value_names.push_back(std::move(name));
    return {static_cast<int32_t>(value_names.size()) - 1};
  }
};

}  // namespace sconce::models

#endif  // SCONCE_MODELS_PROGRAM_GRAPH_H_
