#include "server/program/graph_id.h"

#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "server/program/program_hasher.h"

namespace sconce {
namespace {

using models::Argument;
using models::GraphConstant;
using models::GraphInput;
using models::GraphNode;
using models::GraphOutput;
using models::GraphWeight;
using models::NamedArgument;
using models::NodeOutput;
using models::SizeExpression;
using models::Symbol;
using models::ValueId;

// Every list says how long it is, so that no two graphs are the same sequence of bytes.
class Writer {
 public:
  std::string Id() const { return hasher_.Id(); }

  void Add(const models::Graph& graph) {
    Add(graph.class_name);
    AddAll(graph.symbols);
    AddAll(graph.inputs);
    AddAll(graph.outputs);
    AddAll(graph.weights);
    AddAll(graph.constants);
    AddAll(graph.nodes);
  }

 private:
  template <typename T>
  requires(std::is_arithmetic_v<T> || std::is_enum_v<T>) void Add(T value) { hasher_.Add(value); }
  void Add(const std::string& text) { hasher_.Add(text); }

  template <typename T>
  void AddAll(const std::vector<T>& parts) {
    Add(parts.size());
    for (const T& part : parts) Add(part);
  }

  void Add(ValueId value) { Add(value.index); }

  void Add(const Symbol& symbol) {
    Add(symbol.range.minimum);
    Add(symbol.range.maximum);
  }

  void Add(const SizeExpression& size) {
    Add(size.kind);
    Add(size.constant);
    Add(size.symbol);
    AddAll(size.operands);
  }

  void Add(const GraphInput& input) {
    Add(input.name);
    Add(input.value);
    Add(input.dtype);
    AddAll(input.sizes);
  }

  void Add(const GraphOutput& output) {
    Add(output.name);
    Add(output.value);
    Add(output.dtype);
    AddAll(output.sizes);
  }

  void Add(const GraphWeight& weight) {
    Add(weight.name);
    Add(weight.value);
    Add(weight.dtype);
    AddAll(weight.shape);
    Add(weight.is_parameter);
  }

  void Add(const GraphConstant& constant) {
    Add(constant.value);
    hasher_.Add(constant.tensor);
  }

  void Add(const GraphNode& node) {
    Add(node.op);
    Add(node.overload);
    AddAll(node.arguments);
    AddAll(node.outputs);
  }

  void Add(const NamedArgument& argument) {
    Add(argument.name);
    Add(argument.value);
  }

  void Add(const NodeOutput& output) {
    AddAll(output.values);
    Add(output.is_list);
  }

  void Add(const Argument& argument) {
    Add(argument.variant.index());
    std::visit([this](const auto& value) { Add(value); }, argument.variant);
  }

  void Add(Argument::None) {}
  void Add(const c10::complex<double>& number) {
    Add(number.real());
    Add(number.imag());
  }
  // A device stands for wherever the program runs.
  void Add(c10::Device) {}
  void Add(const std::vector<Argument>& list) { AddAll(list); }

  ProgramHasher hasher_;
};

}  // namespace

std::string GraphId(const models::Graph& graph) {
  Writer writer;
  writer.Add(graph);
  return writer.Id();
}

}  // namespace sconce
