// Networks that are there for what they do to a device, without weights.

#ifndef SCONCE_TESTS_SUPPORT_FUNCTION_NET_H_
#define SCONCE_TESTS_SUPPORT_FUNCTION_NET_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "models/net.h"

namespace sconce {

// A network without weights that is one function of one input.
class FunctionNet final : public models::Net {
 public:
  using Function = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;

  FunctionNet(models::Signature signature, Function function)
      : signature_(std::move(signature)), function_(std::move(function)) {}

  const std::string& class_name() const override { return class_name_; }
  const models::Signature& signature() const override { return signature_; }
  std::vector<models::NamedTensor> State() const override { return {}; }
  std::vector<std::string> ModuleNames() const override { return {""}; }
  void Assign(size_t, const at::Tensor&) override {}
  void Eval(c10::Device) override {}
  std::vector<at::Tensor> Forward(const std::vector<at::Tensor>& inputs) const override {
    return function_(inputs);
  }

 private:
  const std::string class_name_ = "Function";
  const models::Signature signature_;
  const Function function_;
};

// FP32[-1, dims...] in and out.
inline std::shared_ptr<models::Net> MakeFunction(
    std::vector<int64_t> dims, std::function<at::Tensor(const at::Tensor&)> function) {
  const models::TensorSpec x{"x", at::kFloat, dims}, y{"y", at::kFloat, std::move(dims)};
  return std::make_shared<FunctionNet>(
      models::Signature{{x}, {y}},
      [function = std::move(function)](const std::vector<at::Tensor>& inputs) {
        return std::vector<at::Tensor>{function(inputs.at(0))};
      });
}

}  // namespace sconce

#endif  // SCONCE_TESTS_SUPPORT_FUNCTION_NET_H_
