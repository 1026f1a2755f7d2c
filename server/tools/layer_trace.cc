#include "server/tools/layer_trace.h"

#include <ATen/core/ivalue.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/mean.h>
#include <ATen/record_function.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "server/tools/multiply_adds.h"

namespace sconce::tools {
namespace {

// Where in memory each of a network's tensors lies: views of them (a transposed weight, a third of
// a packed one) are found as well.
class WeightsInMemory {
 public:
  explicit WeightsInMemory(const std::vector<models::NamedTensor>& state) {
    for (size_t i = 0; i < state.size(); ++i) {
      const at::Tensor& tensor = state[i].tensor;
      if (!tensor.defined() || tensor.numel() == 0 || !tensor.has_storage()) continue;
      int64_t last = 0;
      for (int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
      const auto begin = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
      auto [it, is_new] = places_.try_emplace(begin, Place{});
      if (is_new) it->second.end = begin + (last + 1) * tensor.itemsize();
      it->second.tensors.push_back(i);
    }
  }

  // None: `tensor` is no view of a weight.
  const std::vector<size_t>* Find(const at::Tensor& tensor) const {
    if (!tensor.defined() || !tensor.has_storage() || tensor.numel() == 0) return nullptr;
    const auto begin = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
    auto it = places_.upper_bound(begin);
    if (it == places_.begin()) return nullptr;
    --it;
    return begin < it->second.end ? &it->second.tensors : nullptr;
  }

 private:
  struct Place {
    uintptr_t end = 0;
    std::vector<size_t> tensors;  // several where they are tied
  };
  std::map<uintptr_t, Place> places_;
};

// "aten::batch_norm" -> "batch_norm".
std::string ShortName(std::string_view name) {
  const size_t colons = name.rfind("::");
  return std::string(colons == name.npos ? name : name.substr(colons + 2));
}

// What moves values and computes nothing.
bool IsMove(std::string_view name) {
  for (const std::string_view move :
       {"aten::clone", "aten::contiguous", "aten::copy_", "aten::to", "aten::_to_copy",
        "aten::dropout", "aten::dropout_", "aten::feature_dropout_", "aten::alpha_dropout_"}) {
    if (name == move) return true;
  }
  return false;
}

// The module that a tensor belongs to; the tensor itself where that is the network.
std::string LayerOf(const std::string& tensor) {
  const size_t dot = tensor.rfind('.');
  return dot == std::string::npos ? tensor : tensor.substr(0, dot);
}

// The innermost module that all of them belong to.
std::string CommonLayer(const std::vector<std::string>& layers) {
  std::vector<std::string> common = absl::StrSplit(layers.front(), '.');
  for (const std::string& layer : layers) {
    const std::vector<std::string> parts = absl::StrSplit(layer, '.');
    size_t same = 0;
    while (same < common.size() && same < parts.size() && common[same] == parts[same]) ++same;
    common.resize(same);
  }
  return absl::StrJoin(common, ".");
}

class Tracer {
 public:
  Tracer(const models::Net& net, bool measure_activation)
      : state_(net.State()), memory_(state_), measure_(measure_activation), used_(state_.size()) {}

  // Operators call each other: only the outermost become layers, and of those that are counted only
  // the outermost count.
  void Begin(const at::RecordFunction& function) {
    Call& call = calls_.emplace_back();
    call.operator_name = function.name();
    call.counted = !counting_ && IsCounted(call.operator_name);
    if (call.counted) counting_ = true;
    const auto inputs = function.inputs();
    for (const c10::IValue& input : inputs) {
      at::Tensor argument;
      if (input.isTensor()) {
        argument = input.toTensor();
        Touch(argument);
      } else if (input.isTensorList()) {
        for (const at::Tensor& tensor : input.toTensorVector()) {
          Touch(tensor);
          call.call.listed.push_back(tensor);
        }
      } else if (input.isList()) {
        for (const c10::IValue& element : input.toListRef()) {
          if (!element.isTensor()) continue;
          Touch(element.toTensor());
          call.call.listed.push_back(element.toTensor());
        }
      }
      call.call.arguments.push_back(std::move(argument));
    }
    // (input, weight, bias, stride, padding, dilation, transposed, ...)
    call.call.transposed = absl::EndsWith(call.operator_name, "convolution") && inputs.size() > 6 &&
                           inputs[6].isBool() && inputs[6].toBool();
  }

  void End(const at::RecordFunction& function) {
    Call call = std::move(calls_.back());
    calls_.pop_back();
    call.call.name = call.operator_name;
    at::Tensor output;
    for (const c10::IValue& value : function.outputs()) {
      if (value.isTensor()) output = value.toTensor();
      if (value.isTensorList() && !value.toTensorList().empty()) output = value.toTensorVector()[0];
      if (output.defined()) break;
    }
    if (call.counted) {
      counting_ = false;
      if (output.defined()) multiply_adds_ += MultiplyAdds(call.call, output);
    }
    if (!calls_.empty()) return;
    if (output.defined() && IsLayer(call, output)) AddLayer(call, output);
    multiply_adds_ = 0;
    touched_.clear();
  }

  LayerTrace Finish(std::vector<at::Tensor> outputs) {
    for (size_t i = 0; i < used_.size(); ++i) {
      if (!used_[i]) trace_.unused.push_back(i);
    }
    trace_.outputs = std::move(outputs);
    return std::move(trace_);
  }

 private:
  struct Call {
    std::string operator_name;
    OperatorCall call;
    bool counted = false;
  };

  void Touch(const at::Tensor& tensor) {
    const std::vector<size_t>* found = memory_.Find(tensor);
    if (found == nullptr) return;
    // Of tied tensors the first that is yet to be used, as if each were one of its own.
    const auto next = std::find_if(found->begin(), found->end(), [&](size_t i) {
      return std::find(touched_.begin(), touched_.end(), i) != touched_.end() || !used_[i];
    });
    const size_t index = next == found->end() ? found->front() : *next;
    if (std::find(touched_.begin(), touched_.end(), index) == touched_.end()) {
      touched_.push_back(index);
    }
  }

  bool IsLayer(const Call& call, const at::Tensor& output) const {
    if (multiply_adds_ > 0) return true;
    // Views, of weights too, are taken into account where they are used.
    const bool in_place = absl::EndsWith(call.operator_name, "_");
    bool from_tensors = false;
    for (const std::vector<at::Tensor>* tensors : {&call.call.arguments, &call.call.listed}) {
      for (const at::Tensor& tensor : *tensors) {
        if (!tensor.defined()) continue;
        from_tensors = true;
        if (!in_place && tensor.has_storage() && output.has_storage() &&
            tensor.storage().is_alias_of(output.storage())) {
          return false;
        }
      }
    }
    return from_tensors && (!touched_.empty() || !IsMove(call.operator_name));
  }

  void AddLayer(const Call& call, const at::Tensor& output) {
    const std::string name = ShortName(call.operator_name);
    std::vector<Layer>& layers = trace_.layers;
    if (touched_.empty() && !layers.empty() && layers.back().name.empty()) {
      layers.back().operators.push_back(name);
      layers.back().output_shape = output.sizes().vec();
      layers.back().multiply_adds += multiply_adds_;
      return;
    }
    Layer& layer = layers.emplace_back();
    layer.operators = {name};
    layer.output_shape = output.sizes().vec();
    layer.multiply_adds = multiply_adds_;
    layer.weights = touched_;
    if (touched_.empty()) return;
    std::vector<std::string> names;
    for (const size_t i : touched_) {
      names.push_back(LayerOf(state_[i].name));
      used_[i] = true;
      const bool is_new = counted_.insert(state_[i].tensor.const_data_ptr()).second;
      if (is_new && state_[i].is_parameter) layer.parameters += state_[i].tensor.numel();
    }
    layer.name = CommonLayer(names);
    if (layer.name.empty()) layer.name = state_[touched_.front()].name;
    const bool convolution = absl::StrContains(name, "conv");
    layer.channel_of_weight = absl::StrContains(name, "transpose") || call.call.transposed ? 1 : 0;
    if (measure_ && c10::isFloatingType(output.scalar_type()) && output.dim() >= 2) {
      Measure(output, convolution ? 1 : output.dim() - 1, layer);
    }
  }

  static void Measure(const at::Tensor& output, int64_t channel, Layer& layer) {
    const at::DisableRecordFunctionGuard unobserved;
    std::vector<int64_t> others;
    for (int64_t d = 0; d < output.dim(); ++d) {
      if (d != channel) others.push_back(d);
    }
    const at::Tensor mean =
        at::mean(at::abs(output), at::IntArrayRef(others), false, at::kDouble).contiguous();
    layer.activation.assign(mean.const_data_ptr<double>(),
                            mean.const_data_ptr<double>() + mean.numel());
  }

  const std::vector<models::NamedTensor> state_;
  const WeightsInMemory memory_;
  const bool measure_;
  std::vector<bool> used_;
  std::set<const void*> counted_;  // by address, tied ones once
  std::vector<Call> calls_;        // that have not ended, outermost first
  bool counting_ = false;          // one of them is counted
  // Of the outermost:
  std::vector<size_t> touched_;
  int64_t multiply_adds_ = 0;
  LayerTrace trace_;
};

// RecordFunction's callbacks are bare functions.
thread_local Tracer* current_tracer = nullptr;

std::unique_ptr<at::ObserverContext> OnBegin(const at::RecordFunction& function) {
  if (current_tracer != nullptr) current_tracer->Begin(function);
  return nullptr;
}

void OnEnd(const at::RecordFunction& function, at::ObserverContext* /*context*/) {
  if (current_tracer != nullptr) current_tracer->End(function);
}

class Observation {
 public:
  explicit Observation(Tracer* tracer)
      : handle_(at::addThreadLocalCallback(at::RecordFunctionCallback(OnBegin, OnEnd)
                                               .needsInputs(true)
                                               .needsOutputs(true)
                                               .scopes({at::RecordScope::FUNCTION}))) {
    current_tracer = tracer;
  }
  ~Observation() {
    current_tracer = nullptr;
    at::removeCallback(handle_);
  }

 private:
  const at::CallbackHandle handle_;
};

}  // namespace

absl::StatusOr<LayerTrace> TraceLayers(const models::Net& net,
                                       const std::vector<at::Tensor>& inputs,
                                       bool measure_activation) {
  const c10::InferenceMode inference;
  Tracer tracer(net, measure_activation);
  std::vector<at::Tensor> outputs;
  try {
    const Observation observation(&tracer);
    outputs = net.Forward(inputs);
  } catch (const c10::Error& error) {
    const std::string what = error.what_without_backtrace();
    // LibTorch's allocator has no error of its own on the CPU.
    if (absl::StrContains(what, "can't allocate memory")) {
      return absl::ResourceExhaustedError("out of memory while the network ran on these inputs");
    }
    return absl::InvalidArgumentError(absl::StrCat("the network fails on these inputs: ", what));
  }
  return tracer.Finish(std::move(outputs));
}

}  // namespace sconce::tools
