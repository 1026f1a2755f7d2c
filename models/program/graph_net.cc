#include "models/program/graph_net.h"

#include <ATen/core/List.h>
#include <ATen/core/stack.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "models/assignable.h"
#include "models/net.h"
#include "models/program/graph_sizes.h"
#include "models/program/norm_pairs.h"
#include "models/program/plan.h"

namespace sconce::models {
namespace {

using c10::IValue;
using Kind = PlanArgument::Kind;
using Want = PlanArgument::Want;

// What all networks of a program share. Immutable once it is made.
struct Program {
  Program(std::string name, std::string id, Graph made)
      : name(std::move(name)), id(std::move(id)), graph(std::move(made)) {}

  const std::string name;
  const std::string id;
  Graph graph;
  Plan plan = {};
  std::optional<SizeCheck> sizes = {};
  Signature signature = {};
  std::vector<std::string> module_names = {};
  std::vector<GraphNormPair> norm_pairs = {};
};

// Of what a plan was made of, it keeps what networks and messages need.
void DropWhatIsPlanned(Graph& graph) {
  graph.value_names = {};
  graph.module_names = {};
  for (GraphNode& node : graph.nodes) {
    node.arguments = {};
    node.outputs = {};
  }
}

// Convolutions that have taken over a batch norm, by index in Graph::nodes.
struct FoldedNodes {
  std::vector<at::Tensor> biases;  // not defined where a node has its own
  std::vector<bool> dropped;       // norms that give what they are given
};

// A module comes before its children.
std::vector<std::string> ModuleNamesOf(const Graph& graph) {
  std::vector<std::string> names = {""};
  std::set<std::string> known = {""};
  const auto add = [&](const std::string& name) {
    for (size_t end = name.find('.'); true; end = name.find('.', end + 1)) {
      std::string module = name.substr(0, end);
      if (known.insert(module).second) names.push_back(std::move(module));
      if (end == std::string::npos) return;
    }
  };
  for (const std::string& name : graph.module_names) add(name);
  for (const GraphWeight& weight : graph.weights) {
    const size_t dot = weight.name.rfind('.');
    if (dot != std::string::npos) add(weight.name.substr(0, dot));
  }
  return names;
}

// One run: the values that are still needed.
class Run {
 public:
  Run(const Program& program, const std::vector<IValue>& held,
      const absl::flat_hash_set<const c10::StorageImpl*>& shared, const FoldedNodes* folded,
      c10::Device device)
      : program_(program), held_(held), shared_(shared), folded_(folded), device_(device) {
    slots_.resize(program.plan.slots);
  }

  std::vector<at::Tensor> operator()(const std::vector<at::Tensor>& inputs) {
    const Plan& plan = program_.plan;
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (plan.written_inputs[i]) {
        slots_[i] = inputs[i].clone();
      } else {
        slots_[i] = inputs[i];
        inputs_.push_back(StorageOf(inputs[i]));
      }
    }
    for (const PlanNode& node : plan.nodes) {
      try {
        Execute(node);
      } catch (c10::Error& error) {
        error.add_context(Describe(program_.graph.nodes[node.graph_node]));
        throw;
      }
    }
    std::vector<at::Tensor> outputs;
    outputs.reserve(plan.outputs.size());
    for (const PlanArgument& output : plan.outputs) {
      const at::Tensor& tensor =
          (output.kind == Kind::kHeld ? held_ : slots_)[output.index].toTensor();
      // Who takes the outputs may keep them, while weights and inputs get other contents.
      outputs.push_back(IsShared(tensor) ? tensor.clone() : tensor);
    }
    return outputs;
  }

 private:
  static const c10::StorageImpl* StorageOf(const at::Tensor& tensor) {
    return tensor.has_storage() ? tensor.storage().unsafeGetStorageImpl() : nullptr;
  }

  bool IsShared(const at::Tensor& tensor) const {
    const c10::StorageImpl* storage = StorageOf(tensor);
    return shared_.contains(storage) ||
           std::find(inputs_.begin(), inputs_.end(), storage) != inputs_.end();
  }

  void Execute(const PlanNode& node) {
    stack_.clear();
    for (const PlanArgument& argument : node.arguments) Push(argument);
    if (folded_ != nullptr) {
      if (folded_->dropped[node.graph_node]) return Keep(node.outputs[0], stack_.at(0));
      // (input, weight, bias, ...)
      const at::Tensor& bias = folded_->biases[node.graph_node];
      if (bias.defined()) stack_.at(2) = bias;
    }
    for (const size_t written : node.written) {
      const IValue& value = stack_[written];
      TORCH_CHECK(!value.isTensor() || !IsShared(value.toTensor()),
                  "changes a weight, a constant or an input of the program in place, which is not "
                  "supported");
    }
    if (node.op.has_value()) {
      node.op->callBoxed(stack_);
    } else if (node.symbolic != nullptr) {
      IValue result = node.symbolic->calculate(stack_);
      stack_.clear();
      stack_.push_back(std::move(result));
    } else {
      const int64_t size = stack_[0].toTensor().size(stack_[1].toInt());
      stack_.clear();
      stack_.emplace_back(size);
    }
    if (node.leaves_memory_unwritten) stack_.at(0).toTensor().zero_();
    for (size_t i = 0; i < node.outputs.size(); ++i) Keep(node.outputs[i], stack_.at(i));
  }

  void Keep(const PlanOutput& output, IValue& result) {
    if (!output.is_list) {
      if (output.slots[0] != PlanOutput::kUnused) slots_[output.slots[0]] = std::move(result);
      return;
    }
    const c10::List<at::Tensor> list = std::move(result).toTensorList();
    TORCH_CHECK(list.size() == output.slots.size(), "expected ", output.slots.size(),
                " tensors, got ", list.size());
    for (size_t i = 0; i < output.slots.size(); ++i) {
      if (output.slots[i] != PlanOutput::kUnused) slots_[output.slots[i]] = list.get(i);
    }
  }

  IValue Take(const PlanArgument& argument) {
    if (argument.kind == Kind::kHeld) return held_[argument.index];
    IValue& slot = slots_[argument.index];
    if (argument.want == Want::kTensor) return argument.last_use ? std::move(slot) : slot;
    return As(argument.want, slot);
  }

  static IValue As(Want want, const IValue& number) {
    switch (want) {
      case Want::kInt:
        if (number.isBool()) return static_cast<int64_t>(number.toBool());
        TORCH_CHECK(number.isInt(), "expected an integer, got ", number.tagKind());
        return number;
      case Want::kDouble:
        if (number.isInt()) return static_cast<double>(number.toInt());
        TORCH_CHECK(number.isDouble(), "expected a number, got ", number.tagKind());
        return number;
      case Want::kBool:
        TORCH_CHECK(number.isBool(), "expected a truth value, got ", number.tagKind());
        return number;
      case Want::kWrappedNumber:
        return WrappedNumber(number.toScalar());
      case Want::kNumber:
      case Want::kTensor:
        break;
    }
    return number;
  }

  void Push(const PlanArgument& argument) {
    switch (argument.kind) {
      case Kind::kHeld:
      case Kind::kSlot:
        stack_.push_back(Take(argument));
        return;
      case Kind::kDevice:
        stack_.emplace_back(device_);
        return;
      case Kind::kTensorList: {
        c10::List<at::Tensor> list;
        list.reserve(argument.elements.size());
        for (const PlanArgument& element : argument.elements) {
          list.push_back(Take(element).toTensor());
        }
        stack_.emplace_back(std::move(list));
        return;
      }
      case Kind::kOptionalTensorList: {
        c10::List<std::optional<at::Tensor>> list;
        list.reserve(argument.elements.size());
        for (const PlanArgument& element : argument.elements) {
          list.push_back(Take(element).toOptional<at::Tensor>());
        }
        stack_.emplace_back(std::move(list));
        return;
      }
      case Kind::kIntList: {
        c10::List<int64_t> list;
        list.reserve(argument.elements.size());
        for (const PlanArgument& element : argument.elements) {
          list.push_back(Take(element).toInt());
        }
        stack_.emplace_back(std::move(list));
        return;
      }
      case Kind::kDoubleList: {
        c10::List<double> list;
        list.reserve(argument.elements.size());
        for (const PlanArgument& element : argument.elements) {
          list.push_back(Take(element).toDouble());
        }
        stack_.emplace_back(std::move(list));
        return;
      }
    }
  }

  const Program& program_;
  const std::vector<IValue>& held_;
  const absl::flat_hash_set<const c10::StorageImpl*>& shared_;
  const FoldedNodes* const folded_;  // null: none
  const c10::Device device_;
  std::vector<const c10::StorageImpl*> inputs_;  // those that are not copies
  std::vector<IValue> slots_;
  torch::jit::Stack stack_;
};

class GraphNet final : public Net {
 public:
  explicit GraphNet(std::shared_ptr<const Program> program) : program_(std::move(program)) {
    for (const GraphWeight& weight : program_->graph.weights) {
      const at::Tensor element = at::empty({}, weight.dtype).zero_();
      state_.push_back({weight.name, element.expand(weight.shape), weight.is_parameter});
    }
  }

  const std::string& class_name() const override { return program_->graph.class_name; }
  const Signature& signature() const override { return program_->signature; }
  std::vector<NamedTensor> State() const override { return state_; }
  std::vector<std::string> ModuleNames() const override { return program_->module_names; }

  void Assign(size_t index, const at::Tensor& tensor) override {
    NamedTensor& own = state_.at(index);
    CheckAssignable(own.name, own.tensor.scalar_type(), own.tensor.sizes(), tensor);
    own.tensor = tensor;
  }

  void Eval(c10::Device device) override {
    device_ = device;
    held_.clear();
    for (const NamedTensor& named : state_) held_.emplace_back(named.tensor);
    for (const GraphConstant& constant : program_->graph.constants) {
      held_.emplace_back(constant.tensor.to(device));
    }
    held_.insert(held_.end(), program_->plan.literals.begin(), program_->plan.literals.end());
    FindShared();
  }

  int64_t ConstantBytes() const override {
    int64_t bytes = 0;
    for (const GraphConstant& constant : program_->graph.constants) {
      bytes += static_cast<int64_t>(constant.tensor.nbytes());
    }
    return bytes;
  }

  std::vector<NormPair> NormPairs() const override {
    std::vector<NormPair> pairs;
    for (const GraphNormPair& pair : program_->norm_pairs) pairs.push_back(pair.tensors);
    return pairs;
  }

  void Fold(size_t pair, const at::Tensor& weight, const at::Tensor& bias) override {
    const GraphNormPair& nodes = program_->norm_pairs.at(pair);
    const NormPair& tensors = nodes.tensors;
    TORCH_CHECK(weight.sizes() == state_[tensors.weight].tensor.sizes() && bias.dim() == 1 &&
                    bias.size(0) == weight.size(0),
                state_[tensors.weight].name, ": expected folded weights of ",
                state_[tensors.weight].tensor.sizes(), ", got ", weight.sizes());
    if (folded_ == nullptr) {
      const size_t count = program_->graph.nodes.size();
      folded_ = std::make_unique<FoldedNodes>();
      folded_->biases.resize(count);
      folded_->dropped.resize(count);
    }
    folded_->biases[nodes.convolution] = bias;
    folded_->dropped[nodes.norm] = true;
    for (const std::optional<size_t>& gone :
         {tensors.bias, tensors.scale, tensors.shift, std::optional(tensors.mean),
          std::optional(tensors.variance)}) {
      if (gone.has_value()) Hold(*gone, weight.new_empty({0}));
    }
    Hold(tensors.weight, weight);
    FindShared();
  }

  std::vector<at::Tensor> Forward(const std::vector<at::Tensor>& inputs) const override {
    TORCH_CHECK(inputs.size() == program_->graph.inputs.size(), class_name(), ": expected ",
                program_->graph.inputs.size(), " inputs, got ", inputs.size());
    program_->sizes->Check(inputs);
    return Run(*program_, held_, shared_, folded_.get(), device_)(inputs);
  }

 private:
  void Hold(size_t index, const at::Tensor& tensor) {
    state_[index].tensor = tensor;
    held_[index] = tensor;
  }

  void FindShared() {
    shared_.clear();
    const size_t tensors = state_.size() + program_->graph.constants.size();
    for (size_t i = 0; i < tensors; ++i) {
      shared_.insert(held_[i].toTensor().storage().unsafeGetStorageImpl());
    }
    if (folded_ == nullptr) return;
    for (const at::Tensor& bias : folded_->biases) {
      if (bias.defined()) shared_.insert(bias.storage().unsafeGetStorageImpl());
    }
  }

  const std::shared_ptr<const Program> program_;
  std::vector<NamedTensor> state_;
  // Since Eval: weights, constants and literals.
  std::vector<IValue> held_;
  // Memory that all runs share, and none may write to.
  absl::flat_hash_set<const c10::StorageImpl*> shared_;
  std::unique_ptr<FoldedNodes> folded_;  // null: none
  c10::Device device_ = c10::kCPU;
};

class GraphArchitecture final : public Architecture {
 public:
  explicit GraphArchitecture(std::shared_ptr<const Program> program)
      : program_(std::move(program)) {}

  absl::string_view name() const override { return program_->name; }
  absl::string_view family() const override { return "program"; }
  std::string program_id() const override { return program_->id; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> /*state*/,
                                  const Parameters& configured) const override {
    return Inference{.parameters = configured};
  }

  absl::StatusOr<std::unique_ptr<Net>> Create(const Parameters& parameters) const override {
    if (absl::StatusOr<Parameters> none = CompleteParameters(*this, parameters); !none.ok()) {
      return none.status();
    }
    try {
      return std::make_unique<GraphNet>(program_);
    } catch (const std::exception& error) {
      return absl::InternalError(
          absl::StrCat(program_->name, ": could not be built: ", error.what()));
    }
  }

 private:
  const std::shared_ptr<const Program> program_;
  const std::vector<ParameterSpec> parameters_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<const Architecture>> ArchitectureOf(std::string name, std::string id,
                                                                   Graph graph) {
  auto program = std::make_shared<Program>(std::move(name), std::move(id), std::move(graph));
  absl::StatusOr<SizeCheck> sizes = SizeCheck::Make(program->graph);
  if (!sizes.ok()) return sizes.status();
  absl::StatusOr<Plan> plan = PlanOf(program->graph);
  if (!plan.ok()) return plan.status();
  program->sizes = *std::move(sizes);
  program->plan = *std::move(plan);
  program->signature = SignatureOf(program->graph);
  program->module_names = ModuleNamesOf(program->graph);
  program->norm_pairs = FindNormPairs(program->graph);
  DropWhatIsPlanned(program->graph);
  return std::make_shared<GraphArchitecture>(std::move(program));
}

}  // namespace sconce::models
