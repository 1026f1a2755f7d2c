#include "models/module_net.h"

#include <utility>

namespace sconce::models {

ModuleNet::ModuleNet(std::string class_name, Signature signature,
                     std::shared_ptr<torch::nn::Module> module, ForwardFunction forward)
    : class_name_(std::move(class_name)),
      signature_(std::move(signature)),
      module_(std::move(module)),
      forward_(std::move(forward)) {
  Collect(*module_, "");
}

// Module by module, as Python's state_dict: parameters, buffers, then the children.
void ModuleNet::Collect(const torch::nn::Module& module, const std::string& name) {
  module_names_.push_back(name);
  const std::string prefix = name.empty() ? "" : name + ".";
  for (const auto& item : module.named_parameters(/*recurse=*/false)) {
    at::Tensor parameter = item.value();
    parameter.set_requires_grad(false);
    state_.push_back({prefix + item.key(), parameter, /*is_parameter=*/true});
  }
  for (const auto& item : module.named_buffers(/*recurse=*/false)) {
    state_.push_back({prefix + item.key(), item.value(), /*is_parameter=*/false});
  }
  for (const auto& item : module.named_children()) {
    Collect(*item.value(), prefix + item.key());
  }
}

void ModuleNet::Assign(size_t index, const at::Tensor& tensor) {
  NamedTensor& own = state_.at(index);
  const bool floating = c10::isFloatingType(own.tensor.scalar_type());
  TORCH_CHECK(tensor.sizes() == own.tensor.sizes() &&
                  (tensor.dtype() == own.tensor.dtype() ||
                   (floating && c10::isFloatingType(tensor.scalar_type()))),
              own.name, ": expected ", own.tensor.dtype(), own.tensor.sizes(), ", got ",
              tensor.dtype(), tensor.sizes());
  own.tensor.set_data(tensor);
}

std::vector<at::Tensor> ModuleNet::Forward(const std::vector<at::Tensor>& inputs) const {
  TORCH_CHECK(inputs.size() == 1, class_name_, ": expected 1 input, got ", inputs.size());
  return {forward_(inputs[0])};
}

}  // namespace sconce::models
