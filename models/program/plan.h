// Plan: a graph made ready to run, once for all its networks. Operators are found, arguments are
// what the operators' schemas want, and it is known where each value is used last.
//
// Immutable; thread-safe.
#ifndef SCONCE_MODELS_PROGRAM_PLAN_H_
#define SCONCE_MODELS_PROGRAM_PLAN_H_

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <c10/core/Scalar.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/program/graph.h"
#include "models/program/symbolic_ops.h"

namespace sconce::models {

struct PlanArgument {
  enum class Kind {
    // index: into what a network holds: its weights, its constants, and then Plan::literals.
    kHeld,
    kSlot,    // index: into the values of a run
    kDevice,  // the device that the network is on
    // Made of `elements` at each run.
    kTensorList,
    kOptionalTensorList,
    kIntList,
    kDoubleList,
  };
  // What the operator wants of a value that is known only when it runs.
  enum class Want {
    kTensor,
    kInt,
    kDouble,
    kBool,
    kNumber,
    // A tensor, and is given a number: "x * 2" is "aten::mul.Tensor". See WrappedNumber.
    kWrappedNumber,
  };

  Kind kind = Kind::kHeld;
  Want want = Want::kNumber;
  bool last_use = false;  // of a slot
  size_t index = 0;
  std::vector<PlanArgument> elements = {};
};

struct PlanOutput {
  static constexpr size_t kUnused = static_cast<size_t>(-1);

  std::vector<size_t> slots;
  bool is_list = false;
};

struct PlanNode {
  // What is called: the one or the other, or neither for the size of a tensor's dimension.
  std::optional<c10::OperatorHandle> op = {};
  const SymbolicOp* symbolic = nullptr;
  std::vector<PlanArgument> arguments = {};
  std::vector<PlanOutput> outputs = {};
  // Arguments that the operator writes to.
  std::vector<size_t> written = {};
  bool leaves_memory_unwritten = false;
  // For messages: index into Graph::nodes.
  size_t graph_node = 0;
};

struct Plan {
  std::vector<PlanNode> nodes;
  std::vector<PlanArgument> outputs;  // kHeld or kSlot
  std::vector<c10::IValue> literals;
  size_t slots = 0;  // the first are the inputs
  // Inputs that the program writes to: it is given copies of them.
  std::vector<bool> written_inputs;
};

// InvalidArgument: what is wrong with the graph; Unimplemented: what of it is not supported. Both
// name node and operator.
absl::StatusOr<Plan> PlanOf(const Graph& graph);

// A number as a tensor without dimensions, whose dtype counts for little where dtypes are promoted,
// as PyTorch has it.
at::Tensor WrappedNumber(const c10::Scalar& number);

// "node 'conv2d' (aten::conv2d)".
std::string Describe(const GraphNode& node);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_PROGRAM_PLAN_H_
