#include "server/weights/load_state_dict.h"

#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

#include <map>
#include <new>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "server/base/printable.h"

namespace sconce {
namespace {

// A network has no more names than that, so only a file that is something else altogether loses
// names from the message.
constexpr size_t kMostNamesShown = 1000;

constexpr std::string_view kBatchCounter = "num_batches_tracked";

// A number in the code, as torch.export names it where an ONNX model has it among its weights.
bool IsLiftedConstant(absl::string_view name) {
  const size_t dot = name.rfind('.');
  if (dot != absl::string_view::npos) name.remove_prefix(dot + 1);
  return absl::ConsumePrefix(&name, "lifted_tensor_") && !name.empty() &&
         name.find_first_not_of("0123456789") == absl::string_view::npos;
}

std::string SizeText(at::IntArrayRef sizes) {
  return absl::StrCat("torch.Size([", absl::StrJoin(sizes, ", "), "])");
}

// A string as Python's repr() writes it.
std::string PythonRepr(const std::string& text) {
  const char quote = absl::StrContains(text, "'") && !absl::StrContains(text, "\"") ? '"' : '\'';
  std::string repr(1, quote);
  for (const char c : text) {
    if (c == '\n') {
      repr += "\\n";
    } else {
      if (c == quote || c == '\\') repr += '\\';
      repr += c;
    }
  }
  return repr + quote;
}

std::string NameList(const char* what, const std::vector<std::string>& names) {
  std::string text = absl::StrCat(what, " key(s) in state_dict: ");
  for (size_t i = 0; i < names.size() && i < kMostNamesShown; ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ", ", "\"", Printable(names[i]), "\"");
  }
  if (names.size() > kMostNamesShown) {
    absl::StrAppend(&text, " and ", names.size() - kMostNamesShown, " more");
  }
  return text + ". ";
}

// `unexpected` in the order in which PyTorch meets them: module by module, each name at the
// innermost module it leads to.
std::vector<std::string> ByModule(const models::Net& net, std::vector<std::string> unexpected) {
  const std::vector<std::string> modules = net.ModuleNames();
  std::unordered_map<std::string_view, size_t> module_index;
  for (size_t i = 0; i < modules.size(); ++i) module_index.emplace(modules[i], i);

  std::vector<std::vector<std::string>> by_module(modules.size());
  for (std::string& name : unexpected) {
    size_t module = 0;
    size_t begin = 0;  // of the part of the name within the module
    for (size_t dot; (dot = name.find('.', begin)) != std::string::npos; begin = dot + 1) {
      const auto child = module_index.find(std::string_view(name).substr(0, dot));
      if (child == module_index.end()) break;
      module = child->second;
    }
    by_module[module].push_back(std::move(name));
  }
  unexpected.clear();
  for (std::vector<std::string>& names : by_module) {
    for (std::string& name : names) unexpected.push_back(std::move(name));
  }
  return unexpected;
}

// Before version 2, batch norm had no counter of batches: it then starts at 0.
bool MayLackCounter(const models::NamedTensor& own, const StateDict& state) {
  const std::string_view name = own.name;
  if (own.is_parameter || !name.ends_with(kBatchCounter)) return false;
  std::string_view module = name.substr(0, name.size() - kBatchCounter.size());
  if (!module.empty()) {
    if (module.back() != '.') return false;
    module.remove_suffix(1);
  }
  const auto version = state.module_versions.find(std::string(module));
  return version == state.module_versions.end() || version->second < 2;
}

// `saved` as `own` is wanted, without a copy where it is so. Throws as copy_ does.
at::Tensor Cast(const at::Tensor& saved, const at::Tensor& own, const WeightsForm& form) {
  const at::ScalarType type = form.TypeOf(own);
  const at::MemoryFormat format = form.FormatOf(own);
  if (saved.scalar_type() == type && format == at::MemoryFormat::Contiguous &&
      saved.is_contiguous()) {
    return saved;
  }
  at::Tensor cast = at::empty(own.sizes(), saved.options().dtype(type), format);
  return cast.copy_(saved);
}

// Scalars were saved with one dimension before PyTorch 0.4.
at::Tensor InShapeOf(const at::Tensor& own, const at::Tensor& saved) {
  const bool old_scalar = own.dim() == 0 && saved.dim() == 1 && saved.size(0) == 1;
  return old_scalar ? saved.select(0, 0) : saved;
}

class Fitter {
 public:
  Fitter(const models::Net& net, const StateDict& state) : net_(net), state_(state) {}

  absl::StatusOr<StateFit> Fit(const LoadOptions& options) {
    std::unordered_map<std::string, size_t> tensors;
    for (size_t i = 0; i < state_.tensors.size(); ++i) {
      const std::string& saved = state_.tensors[i].name;
      std::string name = NameOf(saved, options);
      if (name.empty()) continue;
      const auto [other, is_new] = tensors.emplace(std::move(name), i);
      if (is_new) continue;
      errors_.push_back(absl::StrCat("\"", Printable(state_.tensors[other->second].name),
                                     "\" and \"", Printable(saved), "\" are both names of \"",
                                     Printable(other->first), "\"."));
    }
    std::unordered_map<std::string, const NonTensorEntry*> non_tensors;
    for (const NonTensorEntry& entry : state_.non_tensors) {
      std::string name = NameOf(entry.name, options);
      if (!name.empty()) non_tensors.emplace(std::move(name), &entry);
    }

    IncompatibleKeys& keys = fit_.keys;
    std::unordered_set<std::string_view> known;
    const std::vector<models::NamedTensor> own_tensors = net_.State();
    for (const models::NamedTensor& own : own_tensors) {
      known.insert(own.name);
      std::optional<size_t>& source = fit_.sources.emplace_back();
      if (const auto saved = tensors.find(own.name); saved != tensors.end()) {
        source = saved->second;
        CheckOne(own, state_.tensors[saved->second], options.form);
      } else if (const auto other = non_tensors.find(own.name); other != non_tensors.end()) {
        errors_.push_back(
            absl::StrCat("While copying the parameter named \"", Printable(own.name),
                         "\", expected torch.Tensor or Tensor-like object from checkpoint but "
                         "received <class '",
                         other->second->type_name, "'>"));
      } else if (!MayLackCounter(own, state_)) {
        keys.missing.push_back(own.name);
      }
    }
    const auto note_unexpected = [&](const std::string& saved) {
      const std::string name = NameOf(saved, options);
      if (name.empty() || known.contains(name)) return;
      if (state_.has_lifted_constants && IsLiftedConstant(name)) return;
      keys.unexpected.push_back(saved);
    };
    for (const StateEntry& entry : state_.tensors) note_unexpected(entry.name);
    for (const NonTensorEntry& entry : state_.non_tensors) note_unexpected(entry.name);
    keys.unexpected = ByModule(net_, std::move(keys.unexpected));

    std::vector<std::string> messages;
    if (options.strict && !keys.missing.empty()) {
      messages.push_back(NameList("Missing", keys.missing));
    }
    if (options.strict && !keys.unexpected.empty()) {
      messages.push_back(NameList("Unexpected", keys.unexpected));
    }
    messages.insert(messages.end(), errors_.begin(), errors_.end());
    if (!messages.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("Error(s) in loading state_dict for ",
                                                     net_.class_name(), ":\n\t",
                                                     absl::StrJoin(messages, "\n\t")));
    }
    return std::move(fit_);
  }

 private:
  // The network's name for a tensor; "": it has no use for it.
  static std::string NameOf(const std::string& saved, const LoadOptions& options) {
    return options.architecture == nullptr ? saved : options.architecture->NameOf(saved);
  }

  // Notes what keeps `own` from being given `saved`.
  void CheckOne(const models::NamedTensor& own, const StateEntry& saved, const WeightsForm& form) {
    const at::Tensor tensor = InShapeOf(own.tensor, saved.tensor);
    if (tensor.sizes() != own.tensor.sizes()) {
      errors_.push_back(absl::StrCat("size mismatch for ", Printable(own.name),
                                     ": copying a param with shape ", SizeText(tensor.sizes()),
                                     " from checkpoint, the shape in current model is ",
                                     SizeText(own.tensor.sizes()), "."));
      return;
    }
    std::string exception;
    if (saved.quantized) {
      exception =
          "Copying from quantized Tensor to non-quantized Tensor is not allowed, please use "
          "dequantize to get a float Tensor from a quantized Tensor";
    } else if (saved.sparse == SparseParts::Layout::kCoo) {
      exception = absl::StrCat(
          "copy_() between dense and sparse Tensors is not implemented! Found self type = torch.",
          c10::toString(own.tensor.scalar_type()), "Tensor and src type = torch.sparse.",
          c10::toString(tensor.scalar_type()), "Tensor");
    } else if (saved.sparse.has_value()) {
      exception =
          "copy_sparse_compressed_ expected sparse compressed tensor layout but got Strided";
    } else {
      try {
        // One element tells whether the types go together.
        Cast(at::empty({}, tensor.options()), at::empty({}, own.tensor.options()), form);
        return;
      } catch (const c10::Error& error) {
        exception = error.what_without_backtrace();
      }
    }
    errors_.push_back(
        absl::StrCat("While copying the parameter named \"", Printable(own.name),
                     "\", whose dimensions in the model are ", SizeText(own.tensor.sizes()),
                     " and whose dimensions in the checkpoint are ", SizeText(tensor.sizes()),
                     ", an exception occurred : (", PythonRepr(exception), ",)."));
  }

  const models::Net& net_;
  const StateDict& state_;
  StateFit fit_;
  std::vector<std::string> errors_;
};

// What each tensor of `net` is to be given. Throws as copy_ does.
std::vector<at::Tensor> Values(const models::Net& net, const StateDict& state, const StateFit& fit,
                               const WeightsForm& form) {
  const std::vector<models::NamedTensor> own_tensors = net.State();
  std::vector<at::Tensor> values;
  // Tied tensors are one tensor under several names.
  using Form = std::tuple<const void*, at::ScalarType, at::MemoryFormat, int64_t>;
  std::map<Form, at::Tensor> cast;
  for (size_t i = 0; i < own_tensors.size(); ++i) {
    const at::Tensor& own = own_tensors[i].tensor;
    if (!fit.sources[i].has_value()) {
      const bool is_counter = !c10::isFloatingType(own.scalar_type());
      const auto options = own.options().dtype(form.TypeOf(own));
      values.push_back(at::empty(own.sizes(), options, form.FormatOf(own)));
      is_counter ? values.back().zero_() : values.back().copy_(own);
      continue;
    }
    const at::Tensor& saved = state.tensors[*fit.sources[i]].tensor;
    at::Tensor& value =
        cast[{saved.unsafeGetTensorImpl(), form.TypeOf(own), form.FormatOf(own), own.dim()}];
    if (!value.defined()) value = Cast(InShapeOf(own, saved), own, form);
    values.push_back(value);
  }
  return values;
}

// Calls `load`; what LibTorch throws becomes a status.
template <typename Load>
auto Guarded(const models::Net& net, Load load) -> decltype(load()) {
  // An inference tensor could not become a module's parameter.
  c10::InferenceMode normal(false);
  try {
    return load();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for the weights of ", net.class_name()));
  } catch (const c10::Error& error) {
    return absl::InternalError(absl::StrCat("loading state_dict for ", net.class_name(), ": ",
                                            error.what_without_backtrace()));
  }
}

}  // namespace

absl::StatusOr<StateFit> FitStateDict(const models::Net& net, const StateDict& state,
                                      const LoadOptions& options) {
  return Guarded(net, [&] { return Fitter(net, state).Fit(options); });
}

absl::StatusOr<IncompatibleKeys> LoadStateDict(models::Net& net, const StateDict& state,
                                               const LoadOptions& options) {
  return Guarded(net, [&]() -> absl::StatusOr<IncompatibleKeys> {
    absl::StatusOr<StateFit> fit = Fitter(net, state).Fit(options);
    if (!fit.ok()) return fit.status();
    const std::vector<at::Tensor> values = Values(net, state, *fit, options.form);
    for (size_t i = 0; i < values.size(); ++i) net.Assign(i, values[i]);
    return std::move(fit->keys);
  });
}

}  // namespace sconce
