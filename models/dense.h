// Dense: torch::nn::Linear that computes as Python's does. LibTorch's adds the bias in an operator
// of its own where the input has more than two dimensions, which rounds otherwise from a few
// hundred features on. For the sources of networks alone: the header draws in torch/nn.h.
#ifndef SCONCE_MODELS_DENSE_H_
#define SCONCE_MODELS_DENSE_H_

#include <ATen/ops/linear.h>
#include <torch/nn.h>

namespace sconce::models {

class DenseImpl final : public torch::nn::LinearImpl {
 public:
  using LinearImpl::LinearImpl;

  at::Tensor forward(const at::Tensor& input) { return at::linear(input, weight, bias); }
};
TORCH_MODULE(Dense);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_DENSE_H_
