#include "tests/program/program_fixtures.h"

#include <ATen/Parallel.h>
#include <ATen/ops/equal.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <utility>
#include <vector>

#include "server/weights/load_state_dict.h"

namespace sconce {

std::string FixtureIn(const char* variable, const std::string& name) {
  const char* folder = std::getenv(variable);
  if (folder == nullptr) {
    ADD_FAILURE() << variable << " is not set: expected the folder of the fixtures";
    return name;
  }
  return std::string(folder) + "/" + name;
}

nlohmann::json ReadJsonFile(const std::string& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

models::Signature DeclaredIn(const char* variable, const std::string& name) {
  const nlohmann::json json = ReadJsonFile(FixtureIn(variable, name + ".json"));
  const auto specs = [](const nlohmann::json& tensors) {
    std::vector<models::TensorSpec> specs;
    for (const nlohmann::json& tensor : tensors) {
      const std::string dtype = tensor["dtype"];
      specs.push_back({tensor["name"],
                       dtype == "I64"   ? c10::ScalarType::Long
                       : dtype == "F16" ? c10::ScalarType::Half
                                        : c10::ScalarType::Float,
                       tensor["dims"].get<std::vector<int64_t>>()});
    }
    return specs;
  };
  return {.inputs = specs(json["inputs"]), .outputs = specs(json["outputs"])};
}

StateDict ReadTensors(const std::string& path) {
  const auto checkpoint = OpenCheckpoint(path);
  if (!checkpoint.ok()) {
    ADD_FAILURE() << checkpoint.status();
    return {};
  }
  auto state = ReadStateDict(**checkpoint);
  if (!state.ok()) {
    ADD_FAILURE() << state.status();
    return {};
  }
  return *std::move(state);
}

at::Tensor TensorOf(const StateDict& state, const std::string& name) {
  for (const StateEntry& entry : state.tensors) {
    if (entry.name == name) return entry.tensor;
  }
  ADD_FAILURE() << "no tensor is called " << name;
  return {};
}

std::unique_ptr<models::Net> WithWeights(const models::Architecture& architecture,
                                         const std::string& weights_path) {
  auto net = architecture.Create({});
  if (!net.ok()) {
    ADD_FAILURE() << net.status();
    return nullptr;
  }
  StateDict state = ReadTensors(weights_path);
  std::vector<StateEntry> known;
  for (StateEntry& entry : state.tensors) {
    entry.name = architecture.NameOf(entry.name);
    if (!entry.name.empty()) known.push_back(std::move(entry));
  }
  state.tensors = std::move(known);
  const auto keys = LoadStateDict(**net, state);
  if (!keys.ok()) {
    ADD_FAILURE() << keys.status();
    return nullptr;
  }
  (*net)->Eval(c10::kCPU);
  return *std::move(net);
}

double Difference(const models::Net& net, const StateDict& io, const StateDict& expected) {
  at::set_num_threads(1);
  const c10::InferenceMode inference_mode;
  std::vector<at::Tensor> inputs;
  for (const models::TensorSpec& input : net.signature().inputs) {
    inputs.push_back(TensorOf(io, "input." + input.name));
  }
  const std::vector<at::Tensor> outputs = net.Forward(inputs);
  EXPECT_EQ(outputs.size(), net.signature().outputs.size());
  double largest = 0.0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const at::Tensor wanted = TensorOf(expected, "output." + net.signature().outputs[i].name);
    if (outputs[i].dtype() != wanted.dtype() || outputs[i].sizes() != wanted.sizes()) {
      return std::numeric_limits<double>::infinity();
    }
    if (at::equal(outputs[i], wanted)) continue;
    const double difference =
        outputs[i].to(at::kDouble).sub(wanted.to(at::kDouble)).abs().max().item<double>();
    largest = std::max(
        largest, difference == difference ? difference : std::numeric_limits<double>::infinity());
  }
  return largest;
}

}  // namespace sconce
