#include "models/module_net.h"

#include <utility>

#include "models/assignable.h"

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
void ModuleNet::Collect(torch::nn::Module& module, const std::string& name) {
  module_names_.push_back(name);
  if (auto* norm = dynamic_cast<FoldableNormImpl*>(&module)) norms_.push_back(norm);
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
  CheckAssignable(own.name, own.tensor.scalar_type(), own.tensor.sizes(), tensor);
  own.tensor.set_data(tensor);
}

void ModuleNet::Eval(c10::Device /*device*/) { module_->eval(); }

std::vector<at::Tensor> ModuleNet::Forward(const std::vector<at::Tensor>& inputs) const {
  TORCH_CHECK(inputs.size() == signature_.inputs.size(), class_name_, ": expected ",
              signature_.inputs.size(), " inputs, got ", inputs.size());
  return forward_(inputs);
}

std::optional<size_t> ModuleNet::IndexOf(const at::Tensor& tensor) const {
  for (size_t i = 0; i < state_.size(); ++i) {
    if (state_[i].tensor.is_same(tensor)) return i;
  }
  return std::nullopt;
}

std::vector<NormPair> ModuleNet::NormPairs() const {
  std::vector<NormPair> pairs;
  for (const FoldableNormImpl* norm : norms_) {
    const torch::nn::Conv2d& convolution = norm->convolution();
    pairs.push_back({.weight = IndexOf(convolution->weight).value(),
                     .bias = IndexOf(convolution->bias),
                     .scale = IndexOf(norm->weight),
                     .shift = IndexOf(norm->bias),
                     .mean = IndexOf(norm->running_mean).value(),
                     .variance = IndexOf(norm->running_var).value(),
                     .epsilon = norm->options.eps()});
  }
  return pairs;
}

void ModuleNet::Fold(size_t pair, const at::Tensor& weight, const at::Tensor& bias) {
  FoldableNormImpl& norm = *norms_.at(pair);
  torch::nn::Conv2d convolution = norm.convolution();
  TORCH_CHECK(weight.sizes() == convolution->weight.sizes() && bias.dim() == 1 &&
                  bias.size(0) == weight.size(0),
              class_name_, ": folded weights: expected ", convolution->weight.sizes(), ", got ",
              weight.sizes(), " and a bias of ", bias.sizes());
  convolution->weight.set_data(weight);
  convolution->bias = bias;
  norm.Drop();
}

}  // namespace sconce::models
