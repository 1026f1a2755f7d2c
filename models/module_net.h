// ModuleNet: a torch::nn module that maps one tensor to one tensor, as a Net. For the sources of
// networks alone: the header draws in torch/nn.h.
#ifndef SCONCE_MODELS_MODULE_NET_H_
#define SCONCE_MODELS_MODULE_NET_H_

#include <torch/nn.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/architecture.h"
#include "models/net.h"
#include "models/skip_init.h"

namespace sconce::models {

class ModuleNet final : public Net {
 public:
  using ForwardFunction = std::function<at::Tensor(const at::Tensor&)>;

  // `forward` runs `module`, which it may point to.
  ModuleNet(std::string class_name, Signature signature, std::shared_ptr<torch::nn::Module> module,
            ForwardFunction forward);

  const std::string& class_name() const override { return class_name_; }
  const Signature& signature() const override { return signature_; }
  std::vector<NamedTensor> State() const override { return state_; }
  std::vector<std::string> ModuleNames() const override { return module_names_; }
  void Assign(size_t index, const at::Tensor& tensor) override;
  void Eval() override { module_->eval(); }
  std::vector<at::Tensor> Forward(const std::vector<at::Tensor>& inputs) const override;

 private:
  void Collect(const torch::nn::Module& module, const std::string& name);

  const std::string class_name_;
  const Signature signature_;
  const std::shared_ptr<torch::nn::Module> module_;
  const ForwardFunction forward_;
  std::vector<NamedTensor> state_;  // handles on the module's own tensors
  std::vector<std::string> module_names_;
};

// Builds a Module from `arguments` without memory for its weights; an error of LibTorch becomes an
// Internal status that names the architecture.
template <typename Module, typename... Arguments>
absl::StatusOr<std::unique_ptr<Net>> BuildModuleNet(const Architecture& architecture,
                                                    std::string class_name, Signature signature,
                                                    const Arguments&... arguments) {
  try {
    std::shared_ptr<Module> module;
    {
      SkipInit skip_init;
      module = std::make_shared<Module>(arguments...);
    }
    auto forward = [raw = module.get()](const at::Tensor& input) { return raw->forward(input); };
    return std::make_unique<ModuleNet>(std::move(class_name), std::move(signature),
                                       std::move(module), std::move(forward));
  } catch (const std::exception& error) {
    return absl::InternalError(std::string(architecture.name()) +
                               ": could not be built: " + error.what());
  }
}

}  // namespace sconce::models

#endif  // SCONCE_MODELS_MODULE_NET_H_
