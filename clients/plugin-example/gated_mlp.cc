// A network of one's own as a plugin: the Python module
//
//   class GatedMlp(nn.Module):
//       def __init__(self, inputs, hidden, outputs):
//           super().__init__()
//           self.gate = nn.Linear(inputs, hidden)
//           self.up = nn.Linear(inputs, hidden)
//           self.down = nn.Linear(hidden, outputs)
//
//       def forward(self, x):
//           return self.down(F.silu(self.gate(x)) * self.up(x))

#include <torch/nn.h>

#include "models/architecture.h"
#include "models/module_net.h"
#include "models/plugin.h"

namespace {

using sconce::models::Find;
using sconce::models::Get;

struct GatedMlpModule : torch::nn::Module {
  GatedMlpModule(int64_t inputs, int64_t hidden, int64_t outputs)
      : gate(register_module("gate", torch::nn::Linear(inputs, hidden))),
        up(register_module("up", torch::nn::Linear(inputs, hidden))),
        down(register_module("down", torch::nn::Linear(hidden, outputs))) {}

  at::Tensor forward(const at::Tensor& x) { return down(torch::silu(gate(x)) * up(x)); }

  torch::nn::Linear gate;
  torch::nn::Linear up;
  torch::nn::Linear down;
};

class GatedMlp final : public sconce::models::Architecture {
 public:
  absl::string_view name() const override { return "gated_mlp"; }
  absl::string_view family() const override { return "gated_mlp"; }

  // Without defaults: the weights tell them.
  const std::vector<sconce::models::ParameterSpec>& parameters() const override {
    static const std::vector<sconce::models::ParameterSpec> specs = {
        {.name = "inputs", .meaning = "numbers in a row"},
        {.name = "hidden", .meaning = "width between"},
        {.name = "outputs", .meaning = "numbers out"}};
    return specs;
  }

  absl::StatusOr<sconce::models::Inference> Infer(
      absl::Span<const sconce::models::NamedShape> state,
      const sconce::models::Parameters&) const override {
    const auto* const gate = Find(state, "gate.weight");
    const auto* const down = Find(state, "down.weight");
    if (gate == nullptr || down == nullptr || gate->shape.size() != 2 || down->shape.size() != 2) {
      return absl::NotFoundError("expected matrices gate.weight and down.weight");
    }
    return sconce::models::Inference{.parameters = {{"inputs", gate->shape[1]},
                                                    {"hidden", gate->shape[0]},
                                                    {"outputs", down->shape[0]}}};
  }

  absl::StatusOr<std::unique_ptr<sconce::models::Net>> Create(
      const sconce::models::Parameters& given) const override {
    const auto parameters = sconce::models::CompleteParameters(*this, given);
    if (!parameters.ok()) return parameters.status();
    const auto inputs = Get<int64_t>(*parameters, "inputs");
    const auto outputs = Get<int64_t>(*parameters, "outputs");
    return sconce::models::BuildModuleNet<GatedMlpModule>(
        name(), "GatedMlp",
        {.inputs = {{"x", at::kFloat, {inputs}}}, .outputs = {{"y", at::kFloat, {outputs}}}},
        inputs, Get<int64_t>(*parameters, "hidden"), outputs);
  }
};

const std::vector<const sconce::models::Architecture*>& Architectures() {
  static const GatedMlp gated_mlp;
  static const std::vector<const sconce::models::Architecture*> all = {&gated_mlp};
  return all;
}

}  // namespace

SCONCE_PLUGIN(Architectures)
