// What tests of weights on their way to devices share: small networks, files of weights for them,
// and loads of these to any devices.
#ifndef SCONCE_TESTS_DEVICE_WEIGHTS_FIXTURE_H_
#define SCONCE_TESTS_DEVICE_WEIGHTS_FIXTURE_H_

#include <ATen/ops/equal.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "models/catalog.h"
#include "server/device/upload/pooled_weights.h"
#include "server/weights/load_state_dict.h"
#include "server/weights/state_dict.h"
#include "tests/device/sim_test.h"
#include "tests/support/random_weights.h"
#include "tests/support/temp_dir.h"

namespace sconce {

inline const c10::Device kCpu(c10::DeviceType::CPU);

struct Network {
  std::string name;
  models::Parameters parameters;
};

// 45 MB, and a convolution that takes more than one portion.
inline const Network kResNet = {"resnet18",
                                {{"num_classes", int64_t{10}}, {"image_size", int64_t{32}}}};
// One tensor of 12 MB.
inline const Network kWide = {
    "linear", {{"in_features", int64_t{3000}}, {"out_features", int64_t{1000}}, {"bias", true}}};
inline const Network kMlp = {"mlp",
                             {{"features", std::vector<int64_t>{8, 8, 8}},
                              {"layers", std::string("0,2")},
                              {"bias", true},
                              {"activation", std::string("relu")}}};

inline std::unique_ptr<models::Net> NewNet(const Network& network) {
  for (const models::Architecture* architecture : models::Catalog()) {
    if (architecture->name() != network.name) continue;
    auto net = architecture->Create(network.parameters);
    if (net.ok()) return *std::move(net);
    ADD_FAILURE() << net.status();
  }
  ADD_FAILURE() << "the catalog has no " << network.name;
  return nullptr;
}

class WeightsTest : public SimTest {
 protected:
  std::string Write(const StateDict& weights, const std::string& name = "model.safetensors") {
    const std::string path = dir_.Path(name);
    const absl::Status written = WriteSafetensors(weights, path);
    EXPECT_TRUE(written.ok()) << written;
    return path;
  }
  std::string WriteRandom(const Network& network, at::ScalarType floating = at::kFloat) {
    StateDict weights = RandomWeights(*NewNet(network), 1);
    for (StateEntry& entry : weights.tensors) {
      if (entry.tensor.is_floating_point()) entry.tensor = entry.tensor.to(floating);
    }
    return Write(weights);
  }

  // What a load gave.
  struct Loaded {
    absl::StatusOr<LoadedWeights> weights;
    UploadPlan plan;
    std::vector<std::unique_ptr<models::Net>> nets;  // by device

    const ResidentWeights& on(size_t device) const { return *weights->resident[device]; }
  };

  static WeightsTarget TargetOn(c10::Device device) {
    if (device.is_cpu()) return {device, std::nullopt};
    return {device, simdevice::NewStream(device)};
  }
  static std::vector<WeightsTarget> TargetsOn(const std::vector<c10::Device>& devices) {
    std::vector<WeightsTarget> targets;
    for (const c10::Device device : devices) targets.push_back(TargetOn(device));
    return targets;
  }

  static UploadPlan PlanFor(const Checkpoint& checkpoint, const Network& network,
                            const LoadOptions& options = {}) {
    const std::unique_ptr<models::Net> net = NewNet(network);
    const auto fit = FitStateDict(*net, OutlineStateDict(checkpoint), options);
    EXPECT_TRUE(fit.ok()) << fit.status();
    if (!fit.ok()) return {};
    auto plan = PlanUpload(checkpoint, *net, *fit, options.form);
    EXPECT_TRUE(plan.ok()) << plan.status();
    return plan.ok() ? *std::move(plan) : UploadPlan{};
  }

  Loaded LoadTo(const Checkpoint& checkpoint, const Network& network,
                const std::vector<c10::Device>& devices, const LoadOptions& options = {},
                bool allow_non_finite = false) {
    Loaded loaded;
    loaded.plan = PlanFor(checkpoint, network, options);
    loaded.weights = LoadWeights(checkpoint, loaded.plan, TargetsOn(devices),
                                 {pool_.get(), &health_, allow_non_finite});
    for (size_t i = 0; i < devices.size() && loaded.weights.ok(); ++i) {
      loaded.nets.push_back(NewNet(network));
      loaded.weights->resident[i]->AssignTo(*loaded.nets[i]);
    }
    return loaded;
  }
  Loaded LoadFile(const std::string& path, const Network& network,
                  const std::vector<c10::Device>& devices, const LoadOptions& options = {}) {
    const auto checkpoint = OpenCheckpoint(path);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    return LoadTo(**checkpoint, network, devices, options);
  }

  static void ExpectEqual(const models::Net& net, const models::Net& expected, c10::Device device) {
    const std::vector<models::NamedTensor> tensors = net.State();
    const std::vector<models::NamedTensor> wanted = expected.State();
    for (size_t i = 0; i < tensors.size(); ++i) {
      const at::Tensor& tensor = tensors[i].tensor;
      EXPECT_EQ(tensor.device(), device) << tensors[i].name;
      ASSERT_EQ(tensor.scalar_type(), wanted[i].tensor.scalar_type()) << tensors[i].name;
      EXPECT_EQ(tensor.strides(), wanted[i].tensor.strides()) << tensors[i].name;
      EXPECT_TRUE(at::equal(tensor.cpu(), wanted[i].tensor)) << tensors[i].name;
    }
  }
  // The network with the weights of the file, by way of LoadStateDict.
  static std::unique_ptr<models::Net> Expected(const std::string& path, const Network& network,
                                               const LoadOptions& options = {}) {
    const auto checkpoint = OpenCheckpoint(path);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    const auto state = ReadStateDict(**checkpoint);
    EXPECT_TRUE(state.ok()) << state.status();
    std::unique_ptr<models::Net> net = NewNet(network);
    const auto keys = LoadStateDict(*net, *state, options);
    EXPECT_TRUE(keys.ok()) << keys.status();
    return net;
  }

  static int64_t LiveOn(c10::Device device) { return simdevice::StatisticsOf(device).live_bytes; }

  void ExpectNothingLeft(int64_t live_bytes, int64_t pinned_bytes) {
    EXPECT_EQ(LiveOn(sim0_), live_bytes);
    EXPECT_EQ(simdevice::PinnedBytes(), pinned_bytes);
  }

  TempDir dir_;
  std::unique_ptr<TensorPool> pool_ = std::make_unique<TensorPool>();
  DeviceHealth health_;
};

}  // namespace sconce

#endif  // SCONCE_TESTS_DEVICE_WEIGHTS_FIXTURE_H_
