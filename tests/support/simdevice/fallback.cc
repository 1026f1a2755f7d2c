// All other operators: the CPU's kernel, queued on the current stream of the tensors' device, over
// the same memory.
//
// What an operator returns must be there before it has run. Its sizes are learned from a dry run of
// the CPU's kernel on zeros, once per operator and arguments. Operators whose results depend on
// values, or are no tensors, wait for the stream, as they do with CUDA.

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/op_registration/adaption.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>
#include <torch/library.h>

#include <exception>
#include <functional>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "server/base/mutex.h"
#include "tests/support/simdevice/operators.h"
#include "tests/support/simdevice/streams.h"

namespace sconce::simdevice {
namespace {

using torch::jit::Stack;
using Arguments = std::vector<c10::IValue>;

constexpr c10::DispatchKeySet kCpu(c10::DispatchKey::CPU);

bool IsSim(const at::Tensor& tensor) { return tensor.defined() && tensor.is_privateuseone(); }

// Applies `change` to each tensor of an argument or a result.
c10::IValue Changed(const c10::IValue& value,
                    const std::function<at::Tensor(const at::Tensor&)>& change) {
  if (value.isTensor()) return change(value.toTensor());
  if (value.isTensorList()) {
    c10::List<at::Tensor> changed;
    for (const at::Tensor& tensor : value.toTensorVector()) changed.push_back(change(tensor));
    return changed;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> changed;
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector()) {
      changed.push_back(tensor.has_value() ? std::optional(change(*tensor)) : std::nullopt);
    }
    return changed;
  }
  return value;
}

Arguments Changed(const Arguments& values,
                  const std::function<at::Tensor(const at::Tensor&)>& change) {
  Arguments changed;
  for (const c10::IValue& value : values) changed.push_back(Changed(value, change));
  return changed;
}

// The device of the tensors; refuses, in CUDA's words, what is on another. A CPU tensor without
// dimensions goes with any device, and so do the indices of index and index_put.
c10::Device CommonDevice(const c10::FunctionSchema& schema, const Arguments& arguments) {
  std::optional<c10::Device> common;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const bool indices = arguments[i].isOptionalTensorList();
    Changed(arguments[i], [&](const at::Tensor& tensor) {
      if (indices && tensor.is_cpu()) return tensor;
      if (tensor.defined() && (tensor.dim() > 0 || !tensor.is_cpu())) {
        c10::impl::check_and_update_common_device(common, tensor, schema.name().c_str(),
                                                  schema.arguments()[i].name().c_str());
      }
      return tensor;
    });
  }
  TORCH_CHECK_NOT_IMPLEMENTED(common.has_value() && common->is_privateuseone(),
                              "sim: ", schema.name(), " is not there");
  return *common;
}

// What kernels are given: aliases, and copies of the CPU tensors without dimensions, whose values
// are those at the call.
Arguments ForKernel(const Arguments& arguments) {
  return Changed(arguments, [](const at::Tensor& tensor) {
    if (IsSim(tensor)) return CpuAlias(tensor);
    return tensor.defined() ? tensor.clone() : tensor;
  });
}

Arguments RunOnCpu(const c10::OperatorHandle& op, Arguments arguments) {
  Stack stack(std::move(arguments));
  op.redispatchBoxed(kCpu, &stack);
  return stack;
}

struct Layout {
  bool defined = false;
  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;
  at::ScalarType dtype = at::kFloat;
};

Layout LayoutOf(const at::Tensor& tensor) {
  if (!tensor.defined()) return {};
  return {true, tensor.sizes().vec(), tensor.strides().vec(), tensor.scalar_type()};
}

// What a dry run tells: of each argument that is written, and of each result, in their order.
struct Outcome {
  std::vector<Layout> written;
  std::vector<Layout> results;
};

bool IsWritten(const c10::Argument& argument) {
  return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
}

bool IsView(const c10::Argument& result) {
  return result.alias_info() != nullptr && !result.alias_info()->isWrite();
}

std::string KeyOf(const c10::OperatorHandle& op, const Arguments& arguments) {
  std::ostringstream key;
  key << op.operator_name();
  for (const c10::IValue& argument : arguments) {
    key << '|';
    bool tensors = false;
    Changed(argument, [&](const at::Tensor& tensor) {
      tensors = true;
      if (tensor.defined()) {
        key << tensor.scalar_type() << tensor.sizes() << tensor.strides() << tensor.device();
      }
      key << ';';
      return tensor;
    });
    if (!tensors && !argument.isGenerator()) key << argument;
  }
  return key.str();
}

Outcome DryRunOn(const c10::OperatorHandle& op, const Arguments& arguments, int value) {
  const c10::InferenceMode inference_mode;
  const Arguments dry = Changed(arguments, [value](const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    return at::empty_strided(tensor.sizes(), tensor.strides(),
                             at::TensorOptions().dtype(tensor.scalar_type()))
        .fill_(value);
  });
  const Arguments results = RunOnCpu(op, dry);
  Outcome outcome;
  for (size_t i = 0; i < dry.size(); ++i) {
    if (!IsWritten(op.schema().arguments()[i])) continue;
    Changed(dry[i], [&](const at::Tensor& tensor) {
      outcome.written.push_back(LayoutOf(tensor));
      return tensor;
    });
  }
  for (const c10::IValue& result : results) {
    Changed(result, [&](const at::Tensor& tensor) {
      outcome.results.push_back(LayoutOf(tensor));
      return tensor;
    });
  }
  return outcome;
}

Outcome DryRun(const c10::OperatorHandle& op, const Arguments& arguments) {
  static Mutex mutex;
  static auto& known = *new std::map<std::string, Outcome>;
  const std::string key = KeyOf(op, arguments);
  {
    MutexLock lock(&mutex);
    const auto found = known.find(key);
    if (found != known.end()) return found->second;
  }
  Outcome outcome;
  try {
    outcome = DryRunOn(op, arguments, 0);
  } catch (const c10::Error&) {
    const std::exception_ptr first = std::current_exception();
    // Integers cannot be divided by 0; nor need an index of 1 be there.
    try {
      outcome = DryRunOn(op, arguments, 1);
    } catch (const c10::Error&) {
      std::rethrow_exception(first);
    }
  }
  MutexLock lock(&mutex);
  return known.emplace(key, std::move(outcome)).first->second;
}

// Results that are arguments written to are those arguments themselves.
const c10::IValue& ArgumentOf(const c10::FunctionSchema& schema, const c10::Argument& result,
                              const Arguments& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const auto* info = schema.arguments()[i].alias_info();
    if (info != nullptr && info->beforeSets() == result.alias_info()->beforeSets()) {
      return arguments[i];
    }
  }
  TORCH_CHECK(false, "sim: ", schema.name(), " returns an argument it does not have");
}

Arguments RunView(const c10::OperatorHandle& op, const Arguments& arguments) {
  const at::Tensor base = arguments[0].toTensor();
  return Changed(RunOnCpu(op, ForKernel(arguments)), [&](const at::Tensor& view) {
    at::Tensor result = at::detail::make_tensor<c10::TensorImpl>(
        c10::TensorImpl::VIEW, c10::Storage(base.storage()), base.key_set(), view.dtype());
    result.unsafeGetTensorImpl()->set_sizes_and_strides(view.sizes(), view.strides(),
                                                        view.storage_offset());
    return result;
  });
}

// Runs in the stream's order, but waits for it.
Arguments RunNow(const c10::OperatorHandle& op, const Arguments& arguments, c10::Device device) {
  const c10::Stream stream = CurrentStream(device.index());
  Arguments results;
  std::exception_ptr error;
  Enqueue(stream, WorkKind::kKernel, [&, inputs = ForKernel(arguments)] {
    try {
      results = RunOnCpu(op, inputs);
    } catch (...) {
      error = std::current_exception();
    }
  });
  Synchronize(stream);
  if (error != nullptr) std::rethrow_exception(error);
  return Changed(results,
                 [&](const at::Tensor& host) { return host.defined() ? host.to(device) : host; });
}

Arguments RunLater(const c10::OperatorHandle& op, const Arguments& arguments, c10::Device device) {
  const c10::FunctionSchema& schema = op.schema();
  const Outcome outcome = DryRun(op, arguments);

  auto written = outcome.written.begin();
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (!IsWritten(schema.arguments()[i])) continue;
    Changed(arguments[i], [&](const at::Tensor& tensor) {
      if (tensor.defined() && tensor.sizes() != written->sizes) tensor.resize_(written->sizes);
      ++written;
      return tensor;
    });
  }

  // `fresh` are the results that are not arguments, as kernels see them.
  Arguments results;
  std::vector<std::optional<Arguments>> fresh;
  auto layout = outcome.results.begin();
  const auto make = [&]() -> at::Tensor {
    const Layout& next = *layout++;
    return next.defined ? EmptyStrided(next.sizes, next.strides, next.dtype, device) : at::Tensor();
  };
  for (const c10::Argument& result : schema.returns()) {
    if (result.alias_info() != nullptr) {
      results.push_back(ArgumentOf(schema, result, arguments));
      Changed(results.back(), [&](const at::Tensor& tensor) {
        ++layout;
        return tensor;
      });
      fresh.push_back(std::nullopt);
    } else {
      results.push_back(make());
      fresh.push_back(ForKernel({results.back()}));
    }
  }

  Enqueue(CurrentStream(device.index()), WorkKind::kKernel,
          [op, fresh = std::move(fresh), inputs = ForKernel(arguments)] {
            const Arguments computed = RunOnCpu(op, inputs);
            for (size_t i = 0; i < computed.size(); ++i) {
              if (!fresh[i].has_value()) continue;
              const at::Tensor to = fresh[i]->front().toTensor();
              if (to.defined()) to.copy_(computed[i].toTensor());
            }
          });
  return results;
}

bool MustWait(const c10::OperatorHandle& op) {
  if (op.hasTag(at::Tag::dynamic_output_shape) || op.hasTag(at::Tag::data_dependent_output)) {
    return true;
  }
  for (const c10::Argument& result : op.schema().returns()) {
    if (result.type()->kind() != c10::TypeKind::TensorType) return true;
  }
  return false;
}

void Fallback(const c10::OperatorHandle& op, Stack* stack) {
  const c10::FunctionSchema& schema = op.schema();
  const size_t count = schema.arguments().size();
  const Arguments arguments(stack->end() - static_cast<int64_t>(count), stack->end());
  const c10::Device device = CommonDevice(schema, arguments);
  const c10::DeviceGuard guard(device);
  Arguments results;
  if (!schema.returns().empty() && IsView(schema.returns()[0])) {
    results = RunView(op, arguments);
  } else if (MustWait(op)) {
    results = RunNow(op, arguments, device);
  } else {
    results = RunLater(op, arguments, device);
  }
  stack->resize(stack->size() - count);
  for (c10::IValue& result : results) stack->push_back(std::move(result));
}

// Made of other operators, but in other ways on the CPU than elsewhere.
constexpr const char* kComposites[] = {
    "aten::convolution",    "aten::scaled_dot_product_attention",
    "aten::lstm.input",     "aten::lstm.data",
    "aten::gru.input",      "aten::gru.data",
    "aten::rnn_tanh.input", "aten::rnn_relu.input",
    "aten::lstm_cell",      "aten::gru_cell",
};

}  // namespace

void RegisterFallback() {
  c10::Dispatcher& dispatcher = c10::Dispatcher::singleton();
  static auto* const operators = new torch::Library(
      torch::Library::IMPL, "aten", c10::DispatchKey::PrivateUse1, __FILE__, __LINE__);
  const auto use_cpu = [&](const std::string& name) {
    operators->impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&Fallback>());
  };
  // A kernel made of other operators is preferred to a backend's fallback, so that each operator
  // that has a kernel for the CPU is registered by name.
  for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
    const auto op = dispatcher.findSchema(name);
    if (!op.has_value() || name.getNamespace() != "aten") continue;
    if (!op->hasKernelForDispatchKey(c10::DispatchKey::CPU)) continue;
    if (op->hasKernelForDispatchKey(c10::DispatchKey::PrivateUse1)) continue;
    use_cpu(c10::toString(name));
  }
  for (const char* name : kComposites) use_cpu(name);

  static auto* const rest = new torch::Library(torch::Library::IMPL, "_",
                                               c10::DispatchKey::PrivateUse1, __FILE__, __LINE__);
  rest->fallback(torch::CppFunction::makeFromBoxedFunction<&Fallback>());
}

}  // namespace sconce::simdevice
