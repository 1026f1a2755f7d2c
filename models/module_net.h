// ModuleNet: a torch::nn module as a Net. For the sources of
// networks alone: the header draws in torch/nn.h.
#ifndef SCONCE_MODELS_MODULE_NET_H_
#define SCONCE_MODELS_MODULE_NET_H_

#include <torch/nn.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "models/architecture.h"
#include "models/foldable_norm.h"
#include "models/net.h"
#include "models/skip_init.h"

namespace sconce::models {

class ModuleNet final : public Net {
 public:
  using ForwardFunction = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;

  // `forward` runs `module`, which it may point to.
  ModuleNet(std::string class_name, Signature signature, std::shared_ptr<torch::nn::Module> module,
            ForwardFunction forward);

  const std::string& class_name() const override { return class_name_; }
  const Signature& signature() const override { return signature_; }
  std::vector<NamedTensor> State() const override { return state_; }
  std::vector<std::string> ModuleNames() const override { return module_names_; }
  void Assign(size_t index, const at::Tensor& tensor) override;
  void Eval(c10::Device device) override;
  std::vector<at::Tensor> Forward(const std::vector<at::Tensor>& inputs) const override;
  std::vector<NormPair> NormPairs() const override;
  void Fold(size_t pair, const at::Tensor& weight, const at::Tensor& bias) override;

 private:
  void Collect(torch::nn::Module& module, const std::string& name);
  std::optional<size_t> IndexOf(const at::Tensor& tensor) const;

  const std::string class_name_;
  const Signature signature_;
  const std::shared_ptr<torch::nn::Module> module_;
  const ForwardFunction forward_;
  std::vector<NamedTensor> state_;  // handles on the module's own tensors
  std::vector<std::string> module_names_;
  std::vector<FoldableNormImpl*> norms_;  // of module_
};

// Registers `module` in `root` under a dotted name, within modules of the names before the dots,
// which are made where they are not there.
template <typename Module>
Module RegisterNested(torch::nn::Module& root, absl::string_view name, Module module) {
  torch::nn::Module* parent = &root;
  for (size_t dot; (dot = name.find('.')) != name.npos; name.remove_prefix(dot + 1)) {
    const std::string child(name.substr(0, dot));
    const auto children = parent->named_children();
    const auto* known = children.find(child);
    parent = known != nullptr
                 ? known->get()
                 : parent->register_module(child, std::make_shared<torch::nn::Module>()).get();
  }
  return parent->register_module(std::string(name), std::move(module));
}

// Builds a Module from `arguments` without memory for its weights. Its forward() maps one tensor to
// one, or the signature's inputs to its outputs (vectors). An error of LibTorch becomes an
// Internal status that names the architecture.
template <typename Module, typename... Arguments>
absl::StatusOr<std::unique_ptr<Net>> BuildModuleNet(absl::string_view architecture,
                                                    std::string class_name, Signature signature,
                                                    const Arguments&... arguments) {
  try {
    std::shared_ptr<Module> module;
    {
      SkipInit skip_init;
      module = std::make_shared<Module>(arguments...);
    }
    auto forward = [raw = module.get()](const std::vector<at::Tensor>& inputs) {
      if constexpr (requires { raw->forward(inputs); }) {
        return raw->forward(inputs);
      } else {
        return std::vector<at::Tensor>{raw->forward(inputs[0])};
      }
    };
    return std::make_unique<ModuleNet>(std::move(class_name), std::move(signature),
                                       std::move(module), std::move(forward));
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat(architecture, ": could not be built: ", error.what()));
  }
}

}  // namespace sconce::models

#endif  // SCONCE_MODELS_MODULE_NET_H_
