#include "tests/torch/fixtures.h"

#include <cstdlib>
#include <fstream>
#include <utility>

#include "server/weights/load_state_dict.h"

namespace sconce {

std::string FixturePath(const std::string& name) {
  const char* folder = std::getenv("SCONCE_TEST_FIXTURES");
  if (folder == nullptr) {
    ADD_FAILURE() << "SCONCE_TEST_FIXTURES is not set: expected the folder that "
                     "tests/fixtures/write_fixtures.py has written";
    return name;
  }
  return std::string(folder) + "/" + name;
}

nlohmann::json ReadJson(const std::string& name) {
  std::ifstream file(FixturePath(name));
  return nlohmann::json::parse(file);
}

std::unique_ptr<Checkpoint> OpenFixture(const std::string& name) {
  auto checkpoint = OpenCheckpoint(FixturePath(name));
  if (!checkpoint.ok()) {
    ADD_FAILURE() << name << ": " << checkpoint.status();
    return nullptr;
  }
  return *std::move(checkpoint);
}

StateDict ReadFixture(const std::string& name) {
  const std::unique_ptr<Checkpoint> checkpoint = OpenFixture(name);
  if (checkpoint == nullptr) return {};
  auto state = ReadStateDict(*checkpoint);
  if (!state.ok()) {
    ADD_FAILURE() << name << ": " << state.status();
    return {};
  }
  return *std::move(state);
}

at::Tensor TensorNamed(const StateDict& state, const std::string& name) {
  for (const StateEntry& entry : state.tensors) {
    if (entry.name == name) return entry.tensor;
  }
  ADD_FAILURE() << "no tensor is called " << name;
  return {};
}

Loaded LoadFixture(const std::string& name, const models::Configured& configured) {
  const std::unique_ptr<Checkpoint> checkpoint = OpenFixture(name);
  if (checkpoint == nullptr) return {};
  const auto layout = DescribeState(*checkpoint);
  if (!layout.ok()) {
    ADD_FAILURE() << name << ": " << layout.status();
    return {};
  }
  Loaded loaded;
  auto detection = models::Detect(layout->tensors, configured);
  if (!detection.ok()) {
    ADD_FAILURE() << name << ": " << detection.status();
    return {};
  }
  loaded.detection = *std::move(detection);
  auto net = loaded.detection.architecture->Create(loaded.detection.parameters);
  if (!net.ok()) {
    ADD_FAILURE() << name << ": " << net.status();
    return {};
  }
  loaded.state = ReadFixture(name);
  const auto keys =
      LoadStateDict(**net, loaded.state, {.architecture = loaded.detection.architecture.get()});
  if (!keys.ok()) {
    ADD_FAILURE() << name << ": " << keys.status();
    return {};
  }
  loaded.net = *std::move(net);
  loaded.net->Eval(at::kCPU);
  return loaded;
}

}  // namespace sconce
