#include "models/skip_init.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace sconce::models {
namespace {

// A dispatch key above autograd that is off unless a thread includes it, so that a fallback on it
// sees every operator of that thread first. PyTorch itself uses it in tests alone.
constexpr c10::DispatchKey kKey = c10::DispatchKey::TESTING_ONLY_GenericMode;

// aten::empty.memory_format(SymInt[] size, *, ScalarType? dtype, Layout? layout, Device? device,
//                           bool? pin_memory, MemoryFormat? memory_format) -> Tensor
at::Tensor OneElementSeenAs(const std::vector<int64_t>& sizes,
                            std::optional<at::ScalarType> dtype) {
  c10::impl::ExcludeDispatchKeyGuard plain(kKey);
  at::Tensor element = at::empty({}, at::TensorOptions().dtype(dtype));
  element.zero_();
  return element.expand(sizes);
}

bool WritesFirstArgument(const c10::FunctionSchema& schema) {
  if (schema.arguments().empty()) return false;
  const auto* alias = schema.arguments()[0].alias_info();
  return alias != nullptr && alias->isWrite();
}

void Fallback(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  const c10::FunctionSchema& schema = op.schema();
  const std::string_view name = schema.name();
  const size_t first = stack->size() - schema.arguments().size();

  if (name == "aten::empty" && schema.overload_name() == "memory_format") {
    const auto& arguments = *stack;
    at::Tensor tensor = OneElementSeenAs(arguments[first].toIntVector(),
                                         arguments[first + 1].toOptional<at::ScalarType>());
    stack->resize(first);
    stack->emplace_back(std::move(tensor));
    return;
  }
  if (WritesFirstArgument(schema)) {
    // In-place operators return their first argument.
    const at::Tensor self = (*stack)[first].toTensor();
    const bool constant = name == "aten::zero_" || name == "aten::fill_";
    if (constant && self.numel() > 0) {
      c10::impl::ExcludeDispatchKeyGuard plain(kKey);
      at::Tensor element = self.as_strided({}, {});
      if (name == "aten::zero_") {
        element.zero_();
      } else if (schema.overload_name() == "Scalar") {
        element.fill_((*stack)[first + 1].toScalar());
      }
    }
    stack->resize(first + 1);
    return;
  }
  // Operators made of others come back here with their parts.
  op.redispatchBoxed(keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kKey), stack);
}

// Once in the process. A plugin has this code a second time; the dispatcher takes one fallback for
// a key, and it does not matter whose.
c10::DispatchKey RegisteredKey() {
  static const bool tried = [] {
    try {
      auto* const library = new torch::Library(torch::Library::IMPL, "_", kKey, __FILE__, __LINE__);
      library->fallback(torch::CppFunction::makeFromBoxedFunction<&Fallback>());
    } catch (const c10::Error&) {
      return false;
    }
    return true;
  }();
  static_cast<void>(tried);
  return kKey;
}

}  // namespace

SkipInit::SkipInit() : include_(RegisteredKey()) {}

}  // namespace sconce::models
