// The demo's convolutional net for 8x8 images of handwritten digits, pixels scaled to 0..1.
#include <ATen/ops/flatten.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/relu.h>

#include <utility>

#include "models/families.h"
#include "models/module_net.h"

namespace sconce::models {
namespace {

class DigitsNet final : public torch::nn::Module {
 public:
  DigitsNet() {
    conv1_ = register_module(
        "conv1", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 16, /*kernel_size=*/3).padding(1)));
    conv2_ = register_module(
        "conv2", torch::nn::Conv2d(torch::nn::Conv2dOptions(16, 32, /*kernel_size=*/3).padding(1)));
    fc1_ = register_module("fc1", torch::nn::Linear(32 * 4 * 4, 64));
    fc2_ = register_module("fc2", torch::nn::Linear(64, 10));
  }

  at::Tensor forward(const at::Tensor& input) {
    at::Tensor x = at::relu(conv1_->forward(input));
    x = at::relu(conv2_->forward(x));
    x = at::flatten(at::max_pool2d(x, /*kernel_size=*/2), 1);
    x = at::relu(fc1_->forward(x));
    return fc2_->forward(x);
  }

 private:
  torch::nn::Conv2d conv1_{nullptr}, conv2_{nullptr};
  torch::nn::Linear fc1_{nullptr}, fc2_{nullptr};
};

class DigitsArchitecture final : public Architecture {
 public:
  absl::string_view name() const override { return "digits"; }
  absl::string_view family() const override { return "digits"; }
  const std::vector<ParameterSpec>& parameters() const override { return parameters_; }

  absl::StatusOr<Inference> Infer(absl::Span<const NamedShape> /*state*/,
                                  const Parameters& /*configured*/) const override {
    return Inference{};
  }

  absl::StatusOr<std::unique_ptr<Net>> Create(const Parameters& parameters) const override {
    absl::StatusOr<Parameters> complete = CompleteParameters(*this, parameters);
    if (!complete.ok()) return complete.status();
    return BuildModuleNet<DigitsNet>(name(), "DigitsNet", MakeSignature({1, 8, 8}, 10));
  }

 private:
  const std::vector<ParameterSpec> parameters_;
};

}  // namespace

const Architecture* Digits() {
  static const auto* const architecture = new DigitsArchitecture;
  return architecture;
}

}  // namespace sconce::models
