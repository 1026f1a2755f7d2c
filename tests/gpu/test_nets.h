// Networks that are there for what they do to a device, without weights of a file.
#ifndef SCONCE_TESTS_GPU_TEST_NETS_H_
#define SCONCE_TESTS_GPU_TEST_NETS_H_

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "models/net.h"

namespace sconce::gpu {

// One tensor in, one out, by whatever function is given.
class FunctionNet : public models::Net {
 public:
  using Function = std::function<at::Tensor(const at::Tensor&)>;

  FunctionNet(std::vector<int64_t> row, std::vector<int64_t> out_row, Function function)
      : signature_{{{"input", at::kFloat, std::move(row)}},
                   {{"output", at::kFloat, std::move(out_row)}}},
        function_(std::move(function)) {}

  const std::string& class_name() const override { return class_name_; }
  const models::Signature& signature() const override { return signature_; }
  std::vector<models::NamedTensor> State() const override { return {}; }
  std::vector<std::string> ModuleNames() const override { return {""}; }
  void Assign(size_t, const at::Tensor&) override {}
  void Eval() override {}
  std::vector<at::Tensor> Forward(const std::vector<at::Tensor>& inputs) const override {
    return {function_(inputs.front())};
  }

 private:
  const std::string class_name_ = "FunctionNet";
  const models::Signature signature_;
  const Function function_;
};

}  // namespace sconce::gpu

#endif  // SCONCE_TESTS_GPU_TEST_NETS_H_
