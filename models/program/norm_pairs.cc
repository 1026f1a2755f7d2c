#include "models/program/norm_pairs.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

namespace sconce::models {
namespace {

// Arguments in the order of the operators' schemas, up to the last that is looked at.
using Names = std::vector<const char*>;

const Names* ConvolutionArguments(const std::string& op) {
  static const auto* const plain = new Names{"input", "weight", "bias"};
  static const auto* const general =
      new Names{"input", "weight", "bias", "stride", "padding", "dilation", "transposed"};
  if (op == "aten::conv1d" || op == "aten::conv2d" || op == "aten::conv3d") return plain;
  return op == "aten::convolution" ? general : nullptr;
}

const Names* NormArguments(const std::string& op) {
  static const auto* const plain = new Names{"input",       "weight",   "bias",     "running_mean",
                                             "running_var", "training", "momentum", "eps"};
  static const auto* const decomposed =
      new Names{"input", "weight", "bias", "running_mean", "running_var", "momentum", "eps"};
  if (op == "aten::batch_norm") return plain;
  return op == "aten::_native_batch_norm_legit_no_training" ? decomposed : nullptr;
}

// None of what is not given.
const Argument::Variant& ArgumentOf(const GraphNode& node, const Names& names, const char* wanted) {
  static const Argument::Variant none;
  const size_t position = static_cast<size_t>(
      std::find(names.begin(), names.end(), std::string(wanted)) - names.begin());
  size_t next = 0;
  for (const NamedArgument& argument : node.arguments) {
    const bool unnamed = argument.name.empty();
    if (unnamed ? next == position : argument.name == wanted) return argument.value.variant;
    if (unnamed) ++next;
  }
  return none;
}

class Finder {
 public:
  explicit Finder(const Graph& graph) : graph_(graph), uses_(graph.value_names.size()) {
    weight_of_.resize(graph.value_names.size());
    for (size_t i = 0; i < graph.weights.size(); ++i) {
      if (IsValue(graph.weights[i].value)) weight_of_[graph.weights[i].value.index] = i;
    }
    for (const GraphNode& node : graph.nodes) {
      for (const NamedArgument& argument : node.arguments) CountUses(argument.value);
    }
    for (const GraphOutput& output : graph.outputs) CountUse(output.value);
  }

  std::vector<GraphNormPair> Find() const {
    std::vector<std::optional<size_t>> made_by(uses_.size());  // convolutions alone
    std::vector<GraphNormPair> pairs;
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const GraphNode& node = graph_.nodes[i];
      if (ConvolutionArguments(node.op) != nullptr && node.outputs.size() == 1 &&
          node.outputs[0].values.size() == 1 && IsValue(node.outputs[0].values[0])) {
        made_by[node.outputs[0].values[0].index] = i;
      }
      const Names* names = NormArguments(node.op);
      if (names == nullptr) continue;
      const auto* input = std::get_if<ValueId>(&ArgumentOf(node, *names, "input"));
      if (input == nullptr || !IsValue(*input) || uses_[input->index] != 1 ||
          !made_by[input->index].has_value()) {
        continue;
      }
      GraphNormPair pair{.convolution = *made_by[input->index], .norm = i, .tensors = {}};
      if (ReadConvolution(graph_.nodes[pair.convolution], pair.tensors) &&
          ReadNorm(node, *names, pair.tensors) && AllOfOneChannel(pair.tensors)) {
        pairs.push_back(pair);
      }
    }
    return pairs;
  }

 private:
  bool IsValue(ValueId id) const {
    return id.index >= 0 && static_cast<size_t>(id.index) < uses_.size();
  }

  void CountUse(ValueId id) {
    if (IsValue(id)) ++uses_[id.index];
  }

  void CountUses(const Argument& argument) {
    if (const auto* id = std::get_if<ValueId>(&argument.variant)) CountUse(*id);
    if (const auto* list = std::get_if<std::vector<Argument>>(&argument.variant)) {
      for (const Argument& element : *list) CountUses(element);
    }
  }

  // A weight that nothing else uses.
  std::optional<size_t> WeightOf(const Argument::Variant& argument) const {
    const auto* id = std::get_if<ValueId>(&argument);
    if (id == nullptr || !IsValue(*id) || uses_[id->index] != 1) return std::nullopt;
    return weight_of_[id->index];
  }

  static bool IsNone(const Argument::Variant& argument) {
    return std::holds_alternative<Argument::None>(argument);
  }

  // Whether what may be left out is left out or a weight.
  bool ReadOptional(const Argument::Variant& argument, std::optional<size_t>* index) const {
    *index = WeightOf(argument);
    return index->has_value() || IsNone(argument);
  }

  bool ReadConvolution(const GraphNode& node, NormPair& pair) const {
    const Names& names = *ConvolutionArguments(node.op);
    const auto weight = WeightOf(ArgumentOf(node, names, "weight"));
    if (!weight.has_value() || !ReadOptional(ArgumentOf(node, names, "bias"), &pair.bias)) {
      return false;
    }
    pair.weight = *weight;
    if (names.size() == 3) return true;
    const auto* transposed = std::get_if<bool>(&ArgumentOf(node, names, "transposed"));
    return transposed != nullptr && !*transposed;
  }

  bool ReadNorm(const GraphNode& node, const Names& names, NormPair& pair) const {
    const auto mean = WeightOf(ArgumentOf(node, names, "running_mean"));
    const auto variance = WeightOf(ArgumentOf(node, names, "running_var"));
    const auto* epsilon = std::get_if<double>(&ArgumentOf(node, names, "eps"));
    if (!mean.has_value() || !variance.has_value() || epsilon == nullptr ||
        !ReadOptional(ArgumentOf(node, names, "weight"), &pair.scale) ||
        !ReadOptional(ArgumentOf(node, names, "bias"), &pair.shift)) {
      return false;
    }
    pair.mean = *mean;
    pair.variance = *variance;
    pair.epsilon = *epsilon;
    for (size_t i = 1; i < node.outputs.size(); ++i) {
      for (const ValueId id : node.outputs[i].values) {
        if (IsValue(id) && uses_[id.index] > 0) return false;
      }
    }
    if (names.size() < 8) return true;
    const auto* training = std::get_if<bool>(&ArgumentOf(node, names, "training"));
    return training != nullptr && !*training;
  }

  bool AllOfOneChannel(const NormPair& pair) const {
    const std::vector<int64_t>& weight = graph_.weights[pair.weight].shape;
    if (weight.size() < 3) return false;
    const auto fits = [&](const std::optional<size_t>& index) {
      return !index.has_value() || graph_.weights[*index].shape == std::vector{weight[0]};
    };
    return fits(pair.bias) && fits(pair.scale) && fits(pair.shift) && fits(pair.mean) &&
           fits(pair.variance);
  }

  const Graph& graph_;
  std::vector<int> uses_;                         // by value
  std::vector<std::optional<size_t>> weight_of_;  // by value
};

}  // namespace

std::vector<GraphNormPair> FindNormPairs(const Graph& graph) { return Finder(graph).Find(); }

}  // namespace sconce::models
