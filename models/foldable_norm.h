// FoldableNorm: a batch norm that follows a convolution whose output goes nowhere else. ModuleNet
// names such pairs, and the norm can be dropped where the convolution has taken over its numbers.
// For the sources of networks alone: the header draws in torch/nn.h.
#ifndef SCONCE_MODELS_FOLDABLE_NORM_H_
#define SCONCE_MODELS_FOLDABLE_NORM_H_

#include <torch/nn.h>

#include <utility>

namespace sconce::models {

class FoldableNormImpl final : public torch::nn::BatchNorm2dImpl {
 public:
  FoldableNormImpl(const torch::nn::BatchNorm2dOptions& options, torch::nn::Conv2d convolution)
      : BatchNorm2dImpl(options), convolution_(std::move(convolution)) {}

  at::Tensor forward(const at::Tensor& input) {
    return dropped_ ? input : BatchNorm2dImpl::forward(input);
  }

  const torch::nn::Conv2d& convolution() const { return convolution_; }

  void Drop() {
    dropped_ = true;
    for (at::Tensor* tensor : {&weight, &bias, &running_mean, &running_var}) {
      if (tensor->defined()) tensor->set_data(at::Tensor(*tensor).new_empty({0}));
    }
  }

 private:
  // Not a child: its parent has it under a name of its own.
  const torch::nn::Conv2d convolution_;
  bool dropped_ = false;
};
TORCH_MODULE(FoldableNorm);

// REQUIRES: what `convolution` gives goes to this norm alone.
inline FoldableNorm NormAfter(const torch::nn::Conv2d& convolution, double epsilon = 1e-5) {
  return FoldableNorm(
      torch::nn::BatchNorm2dOptions(convolution->options.out_channels()).eps(epsilon), convolution);
}

}  // namespace sconce::models

#endif  // SCONCE_MODELS_FOLDABLE_NORM_H_
