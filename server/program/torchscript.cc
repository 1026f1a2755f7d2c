#include "server/program/torchscript.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <cstddef>
#include <exception>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "models/assignable.h"
#include "server/base/printable.h"
#include "server/checkpoint/error_context.h"
#include "server/program/program_hasher.h"
#include "server/program/torchscript_file.h"
#include "server/program/torchscript_graph.h"
#include "server/program/torchscript_id.h"
#include "server/program/torchscript_signature.h"
#include "server/weights/key_normalisation.h"

namespace sconce {
namespace {

struct Weight {
  std::string name;
  c10::ScalarType dtype;
  std::vector<int64_t> shape;
  bool is_parameter;
};

// A place outside parameters and buffers that holds one of them: torch.nn.LSTM keeps all of its
// weights in a list, too.
struct Alias {
  size_t module;  // index into ScriptContents::modules
  size_t slot;
  std::optional<size_t> element;  // of a list; none: the attribute itself
  size_t weight;                  // index into Script::weights
};

// What all networks of one archive share.
struct Script {
  std::string id;
  std::string class_name;
  models::Signature signature;
  ScriptCall call;
  // Parameters and buffers have no elements here, so that copies are made without them.
  torch::jit::Module module;
  std::shared_ptr<torch::jit::Graph> forward;
  std::vector<Weight> weights;
  std::vector<Alias> aliases;
  // Tensors that the weights reader lists and the program keeps for itself.
  std::vector<std::string> kept;
  std::vector<std::string> module_names;
};

bool IsWeight(const ScriptTensor& tensor) { return tensor.is_parameter || tensor.is_buffer; }

// What the interpreter says is a traceback first; messages are cut to their first line.
[[noreturn]] void ThrowAgain(const std::string& class_name, const std::exception& error) {
  const std::string text = error.what();
  std::string line = text.substr(0, text.find('\n'));
  for (const char* kind : {"RuntimeError: ", "Exception: "}) {
    const size_t found = text.rfind(kind);
    if (found == std::string::npos) continue;
    line = text.substr(found, text.find('\n', found) - found);
    break;
  }
  if (text.find("out of memory") != std::string::npos) {
    TORCH_CHECK_WITH(OutOfMemoryError, false, class_name, ": ", line);
  }
  TORCH_CHECK(false, class_name, ": ", line);
}

class TorchScriptNet final : public models::Net {
 public:
  explicit TorchScriptNet(std::shared_ptr<const Script> script)
      : script_(std::move(script)), module_(script_->module.deepcopy()) {
    ScriptContents contents = ContentsOf(module_);
    for (ScriptTensor& tensor : contents.tensors) {
      if (IsWeight(tensor)) weights_.push_back(std::move(tensor));
    }
    modules_ = std::move(contents.modules);
    for (size_t i = 0; i < weights_.size(); ++i) {
      const Weight& weight = script_->weights[i];
      at::Tensor element = at::empty({}, weight.dtype);
      element.zero_();
      SetWeight(i, element.expand(weight.shape));
    }
  }

  const std::string& class_name() const override { return script_->class_name; }
  const models::Signature& signature() const override { return script_->signature; }
  std::vector<std::string> ModuleNames() const override { return script_->module_names; }

  std::vector<models::NamedTensor> State() const override {
    std::vector<models::NamedTensor> state;
    for (size_t i = 0; i < weights_.size(); ++i) {
      state.push_back({script_->weights[i].name,
                       weights_[i].module->getSlot(weights_[i].slot).toTensor(),
                       script_->weights[i].is_parameter});
    }
    return state;
  }

  void Assign(size_t index, const at::Tensor& tensor) override {
    const Weight& weight = script_->weights.at(index);
    models::CheckAssignable(weight.name, weight.dtype, weight.shape, tensor);
    SetWeight(index, tensor);
  }

  void Eval(c10::Device device) override {
    module_.eval();
    // Weights are not copied with the attributes that hold them.
    for (const Alias& alias : script_->aliases) SetAlias(alias, at::empty({0}));
    for (const ScriptModule& part : modules_) MoveKept(*part.object, device);
    for (const Alias& alias : script_->aliases) {
      SetAlias(alias, weights_[alias.weight].module->getSlot(weights_[alias.weight].slot));
    }
    forward_ = torch::jit::Code(GraphOn(*script_->forward, device), "forward");
  }

  std::vector<at::Tensor> Forward(const std::vector<at::Tensor>& inputs) const override {
    TORCH_CHECK(inputs.size() == script_->signature.inputs.size(), script_->class_name,
                ": expected ", script_->signature.inputs.size(), " inputs, got ", inputs.size());
    const ScriptCall& call = script_->call;
    torch::jit::Stack stack;
    stack.reserve(1 + call.inputs.size());
    stack.emplace_back(module_._ivalue());
    for (size_t i = 0; i < call.inputs.size(); ++i) {
      if (call.inputs[i].has_value()) {
        stack.emplace_back(inputs[*call.inputs[i]]);
      } else {
        stack.push_back(call.defaults[i]);
      }
    }
    try {
      torch::jit::InterpreterState(forward_).run(stack);
    } catch (const std::exception& error) {
      ThrowAgain(script_->class_name, error);
    }
    TORCH_CHECK(stack.size() == 1, script_->class_name, ": expected one result of forward, got ",
                stack.size());
    return OutputsOf(stack[0], call);
  }

 private:
  void SetWeight(size_t index, const at::Tensor& tensor) {
    weights_[index].module->setSlot(weights_[index].slot, tensor);
    for (const Alias& alias : script_->aliases) {
      if (alias.weight == index) SetAlias(alias, tensor);
    }
  }

  void SetAlias(const Alias& alias, const c10::IValue& tensor) const {
    c10::ivalue::Object& module = *modules_[alias.module].object;
    if (alias.element.has_value()) {
      module.getSlot(alias.slot).toTensorList().set(*alias.element, tensor.toTensor());
    } else {
      module.setSlot(alias.slot, tensor);
    }
  }

  // What a module holds beside weights and other modules.
  static void MoveKept(c10::ivalue::Object& module, c10::Device device) {
    const c10::ClassTypePtr type = module.type();
    for (size_t i = 0; i < type->numAttributes(); ++i) {
      if (type->getAttribute(i)->is_module() || type->is_parameter(i) || type->is_buffer(i)) {
        continue;
      }
      module.setSlot(i, module.getSlot(i).deepcopy(device));
    }
  }

  const std::shared_ptr<const Script> script_;
  torch::jit::Module module_;
  std::vector<ScriptTensor> weights_;  // in the order of script_->weights
  std::vector<ScriptModule> modules_;
  torch::jit::Code forward_;
};

class TorchScriptArchitecture final : public models::Architecture {
 public:
  explicit TorchScriptArchitecture(std::shared_ptr<const Script> script)
      : script_(std::move(script)) {}

  absl::string_view name() const override { return "torchscript"; }
  absl::string_view family() const override { return "torchscript"; }
  std::string program_id() const override { return script_->id; }
  const std::vector<models::ParameterSpec>& parameters() const override { return parameters_; }

  absl::StatusOr<models::Inference> Infer(absl::Span<const models::NamedShape>,
                                          const models::Parameters&) const override {
    return models::Inference{};
  }

  std::string NameOf(const std::string& saved) const override {
    // What the reader calls a frozen module's constants.
    if (script_->weights.empty() && saved.rfind("CONSTANTS.c", 0) == 0) return "";
    for (const std::string& kept : script_->kept) {
      if (kept == saved) return "";
    }
    return saved;
  }

  absl::StatusOr<std::unique_ptr<models::Net>> Create(
      const models::Parameters& parameters) const override {
    absl::StatusOr<models::Parameters> complete = models::CompleteParameters(*this, parameters);
    if (!complete.ok()) return complete.status();
    try {
      return std::make_unique<TorchScriptNet>(script_);
    } catch (const std::exception& error) {
      return absl::InternalError(absl::StrCat("torchscript: could not be built: ", error.what()));
    }
  }

 private:
  const std::shared_ptr<const Script> script_;
  const std::vector<models::ParameterSpec> parameters_;
};

bool IsSameMemory(const at::Tensor& a, const at::Tensor& b) {
  return a.is_alias_of(b) && a.storage_offset() == b.storage_offset() && a.sizes() == b.sizes() &&
         a.strides() == b.strides();
}

// The weight that `tensor` is, if it is one.
std::optional<size_t> WeightIn(const std::vector<ScriptTensor>& weights, const at::Tensor& tensor) {
  for (size_t i = 0; i < weights.size(); ++i) {
    if (IsSameMemory(weights[i].module->getSlot(weights[i].slot).toTensor(), tensor)) return i;
  }
  return std::nullopt;
}

// Where else the module in it has its weights.
absl::StatusOr<std::vector<Alias>> AliasesOf(const std::vector<ScriptModule>& modules,
                                             const std::vector<ScriptTensor>& weights) {
  std::vector<Alias> aliases;
  for (size_t m = 0; m < modules.size(); ++m) {
    const c10::ClassTypePtr type = modules[m].object->type();
    for (size_t i = 0; i < type->numAttributes(); ++i) {
      if (type->getAttribute(i)->is_module() || type->is_parameter(i) || type->is_buffer(i)) {
        continue;
      }
      const c10::IValue value = modules[m].object->getSlot(i);
      if (value.isTensor()) {
        const std::optional<size_t> weight = WeightIn(weights, value.toTensor());
        if (weight.has_value()) aliases.push_back({m, i, std::nullopt, *weight});
      } else if (value.isTensorList()) {
        const std::vector<at::Tensor> elements = value.toTensorVector();
        for (size_t e = 0; e < elements.size(); ++e) {
          const std::optional<size_t> weight = WeightIn(weights, elements[e]);
          if (weight.has_value()) aliases.push_back({m, i, e, *weight});
        }
      } else {
        c10::IValue::HashAliasedIValues held;
        value.getSubValues(held);
        for (const c10::IValue& part : held) {
          if (!part.isTensor() || !WeightIn(weights, part.toTensor()).has_value()) continue;
          return absl::UnimplementedError(absl::StrCat(
              "the attribute '", Printable(type->getAttributeName(i)), "' of module '",
              Printable(modules[m].name), "' holds a weight in a ",
              Printable(type->getAttribute(i)->repr_str()), ", which is not supported"));
        }
      }
    }
  }
  return aliases;
}

// Takes the values off the module, and notes what they were of.
absl::Status TakeWeights(Script& script) {
  std::vector<std::string> names;
  const ScriptContents contents = ContentsOf(script.module);
  for (const ScriptTensor& tensor : contents.tensors) names.push_back(tensor.name);
  const std::string prefix = WrapperPrefix(names);
  std::vector<ScriptTensor> weights;
  for (const ScriptTensor& tensor : contents.tensors) {
    const std::string name = tensor.name.substr(prefix.size());
    if (!IsWeight(tensor)) {
      script.kept.push_back(name);
      continue;
    }
    const at::Tensor value = tensor.module->getSlot(tensor.slot).toTensor();
    script.weights.push_back({name, value.scalar_type(), value.sizes().vec(), tensor.is_parameter});
    weights.push_back(tensor);
  }
  absl::StatusOr<std::vector<Alias>> aliases = AliasesOf(contents.modules, weights);
  if (!aliases.ok()) return aliases.status();
  script.aliases = *std::move(aliases);
  const at::Tensor nothing = at::empty({0});
  for (const ScriptTensor& weight : weights) weight.module->setSlot(weight.slot, nothing);
  for (const Alias& alias : script.aliases) {
    c10::ivalue::Object& module = *contents.modules[alias.module].object;
    if (alias.element.has_value()) {
      module.getSlot(alias.slot).toTensorList().set(*alias.element, nothing);
    } else {
      module.setSlot(alias.slot, nothing);
    }
  }
  for (const ScriptModule& module : contents.modules) {
    std::string name = module.name;
    if (StripModuleName(prefix, name)) script.module_names.push_back(std::move(name));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> IdOf(const Script& script) {
  ProgramHasher hasher;
  for (const Weight& weight : script.weights) {
    hasher.Add(weight.name);
    hasher.Add(weight.dtype);
    hasher.AddAll(weight.shape);
    hasher.Add(weight.is_parameter);
  }
  try {
    HashScript(script.module, *script.forward, hasher);
  } catch (const std::exception& error) {
    return absl::UnimplementedError(
        absl::StrCat("it holds something that is not supported: ", Printable(error.what(), 600)));
  }
  return hasher.Id();
}

absl::StatusOr<std::shared_ptr<const Script>> ReadScript(const std::string& path,
                                                         const ProgramOptions& options) {
  absl::StatusOr<torch::jit::Module> module = LoadScriptModule(path, options.max_metadata_bytes);
  if (!module.ok()) return module.status();
  auto script = std::make_shared<Script>();
  script->module = *std::move(module);
  absl::StatusOr<std::shared_ptr<torch::jit::Graph>> graph = ForwardGraph(script->module);
  if (!graph.ok()) return graph.status();
  script->forward = *std::move(graph);
  absl::StatusOr<ScriptCall> call =
      MatchCall(script->module.get_method("forward").function().getSchema(), options.declared);
  if (!call.ok()) return call.status();
  script->call = *std::move(call);
  script->signature = options.declared;
  script->class_name = script->module.type()->name()->name();
  if (absl::Status taken = TakeWeights(*script); !taken.ok()) return taken;
  absl::StatusOr<std::string> id = IdOf(*script);
  if (!id.ok()) return id.status();
  script->id = *std::move(id);
  return script;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const models::Architecture>> OpenTorchScript(
    const std::string& path, const ProgramOptions& options) {
  absl::StatusOr<std::shared_ptr<const Script>> script = ReadScript(path, options);
  if (!script.ok()) {
    const std::string message(script.status().message());
    if (message.rfind(Printable(path), 0) == 0) return script.status();
    return InContext(Printable(path), script.status());
  }
  return std::make_shared<TorchScriptArchitecture>(*std::move(script));
}

}  // namespace sconce
