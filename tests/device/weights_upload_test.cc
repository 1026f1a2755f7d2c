// That weights on a device are those the CPU would have, and that a load that fails at any step
// leaves nothing behind.
#include "server/device/upload/weights_upload.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "models/catalog.h"
#include "server/weights/load_state_dict.h"
#include "server/weights/state_dict.h"
#include "tests/device/sim_test.h"
#include "tests/support/checkpoint_builders.h"
#include "tests/support/random_weights.h"
#include "tests/support/temp_dir.h"

namespace sconce {
namespace {

using testing::HasSubstr;

struct Network {
  std::string name;
  models::Parameters parameters;
};

// 45 MB, and a convolution that takes more than one portion.
const Network kResNet = {"resnet18", {{"num_classes", int64_t{10}}, {"image_size", int64_t{32}}}};
// One tensor of 12 MB.
const Network kWide = {
    "linear", {{"in_features", int64_t{3000}}, {"out_features", int64_t{1000}}, {"bias", true}}};
const Network kMlp = {"mlp",
                      {{"features", std::vector<int64_t>{8, 8, 8}},
                       {"layers", std::string("0,2")},
                       {"bias", true},
                       {"activation", std::string("relu")}}};

std::unique_ptr<models::Net> NewNet(const Network& network) {
  for (const models::Architecture* architecture : models::Catalog()) {
    if (architecture->name() != network.name) continue;
    auto net = architecture->Create(network.parameters);
    if (net.ok()) return *std::move(net);
    ADD_FAILURE() << net.status();
  }
  ADD_FAILURE() << "the catalog has no " << network.name;
  return nullptr;
}

// A tensor of floats in the storage of that key, as torch.save writes it.
std::string SavedFloats(const std::string& key, const std::vector<int64_t>& shape,
                        const std::vector<int64_t>& strides) {
  TensorPickle tensor;
  tensor.key = key;
  tensor.numel = shape.size() == 2 ? shape[0] * shape[1] : shape[0];
  tensor.shape = shape;
  tensor.strides = strides;
  return tensor.Build();
}

class WeightsUploadTest : public SimTest {
 protected:
  std::string Write(const StateDict& weights) {
    const std::string path = dir_.Path("model.safetensors");
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

  // What a load to devices gave.
  struct Loaded {
    absl::StatusOr<std::string> id;
    UploadPlan plan;
    std::vector<std::unique_ptr<models::Net>> nets;  // by device
  };

  Loaded Upload(const Checkpoint& checkpoint, const Network& network,
                const std::vector<c10::Device>& devices, const LoadOptions& options = {}) {
    Loaded loaded;
    std::vector<UploadTarget> targets;
    for (const c10::Device device : devices) {
      loaded.nets.push_back(NewNet(network));
      targets.push_back({simdevice::NewStream(device), loaded.nets.back().get()});
    }
    const auto fit = FitStateDict(*loaded.nets[0], OutlineStateDict(checkpoint), options);
    if (!fit.ok()) {
      ADD_FAILURE() << fit.status();
      return loaded;
    }
    auto plan = PlanUpload(checkpoint, *loaded.nets[0], *fit, options.form);
    if (!plan.ok()) {
      ADD_FAILURE() << plan.status();
      return loaded;
    }
    loaded.plan = *std::move(plan);
    loaded.id = UploadWeights(checkpoint, loaded.plan, targets, &health_);
    return loaded;
  }

  // Loads the file for the CPU and for the device, and compares.
  void ExpectSameAsOnTheCpu(const std::string& path, const Network& network,
                            const LoadOptions& options = {}) {
    const auto checkpoint = OpenCheckpoint(path);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const Loaded loaded = Upload(**checkpoint, network, {sim1_}, options);
    ASSERT_TRUE(loaded.id.ok()) << loaded.id.status();
    const auto state = ReadStateDict(**checkpoint);
    ASSERT_TRUE(state.ok()) << state.status();
    EXPECT_EQ(*loaded.id, state->weights_id);
    const std::unique_ptr<models::Net> expected = NewNet(network);
    const auto keys = LoadStateDict(*expected, *state, options);
    ASSERT_TRUE(keys.ok()) << keys.status();
    ExpectEqual(*loaded.nets[0], *expected, sim1_);
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

  void ExpectNothingLeft(int64_t live_bytes, int64_t pinned_bytes) {
    EXPECT_EQ(simdevice::StatisticsOf(sim0_).live_bytes, live_bytes);
    EXPECT_EQ(simdevice::PinnedBytes(), pinned_bytes);
  }

  TempDir dir_;
  DeviceHealth health_;
};

TEST_F(WeightsUploadTest, WeightsAreThoseOfTheCpuInEveryForm) {
  const std::string path = WriteRandom(kResNet);
  for (const bool channels_last : {false, true}) {
    for (const auto floating : {std::optional<at::ScalarType>(), {at::kBFloat16}, {at::kHalf}}) {
      SCOPED_TRACE(testing::Message() << "channels_last " << channels_last << ", type "
                                      << (floating ? c10::toString(*floating) : "own"));
      ExpectSameAsOnTheCpu(path, kResNet, {.form = {floating, channels_last}});
    }
  }
}

TEST_F(WeightsUploadTest, TypesOfTheFileAreCast) {
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16, at::kDouble}) {
    SCOPED_TRACE(c10::toString(type));
    ExpectSameAsOnTheCpu(WriteRandom(kWide, type), kWide);
  }
}

TEST_F(WeightsUploadTest, TensorsThatAreNotContiguousAreGathered) {
  const std::vector<float> weight(3'000'000, 0.5f);
  std::string bytes = Bytes(weight);
  for (size_t i = 0; i < bytes.size(); i += 4 * 1001) bytes[i + 2] = static_cast<char>(i / 4004);
  const std::string dict =
      pickle::OrderedDict({{"weight", SavedFloats("0", {1000, 3000}, {1, 1000})},
                           {"bias", SavedFloats("1", {1000}, {1})}});
  const std::string bias = Bytes(std::vector<float>(1000, 2.0f));
  dir_.Write("model.pth", TorchZip(pickle::Stream(dict), {{"0", bytes}, {"1", bias}}).Build());
  ExpectSameAsOnTheCpu(dir_.Path("model.pth"), kWide);
  ExpectSameAsOnTheCpu(dir_.Path("model.pth"), kWide, {.form = {at::kBFloat16, false}});
}

TEST_F(WeightsUploadTest, TiedTensorsShareMemory) {
  const std::string dict = pickle::OrderedDict({{"0.weight", SavedFloats("0", {8, 8}, {8, 1})},
                                                {"0.bias", SavedFloats("1", {8}, {1})},
                                                {"2.weight", SavedFloats("0", {8, 8}, {8, 1})},
                                                {"2.bias", SavedFloats("2", {8}, {1})}});
  dir_.Write("model.pth",
             TorchZip(pickle::Stream(dict), {{"0", Bytes(std::vector<float>(64, 1.5f))},
                                             {"1", Bytes(std::vector<float>(8, 2.5f))},
                                             {"2", Bytes(std::vector<float>(8, 3.5f))}})
                 .Build());
  const auto checkpoint = OpenCheckpoint(dir_.Path("model.pth"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  for (const auto& form : {WeightsForm{}, WeightsForm{at::kBFloat16, false}}) {
    const Loaded loaded = Upload(**checkpoint, kMlp, {sim0_}, {.form = form});
    ASSERT_TRUE(loaded.id.ok()) << loaded.id.status();
    const auto state = loaded.nets[0]->State();
    EXPECT_EQ(state[0].tensor.const_data_ptr(), state[2].tensor.const_data_ptr());
    EXPECT_NE(state[1].tensor.const_data_ptr(), state[3].tensor.const_data_ptr());
    EXPECT_EQ(loaded.plan.weights_bytes, 256 * 3);
  }
  ExpectSameAsOnTheCpu(dir_.Path("model.pth"), kMlp);
  ExpectSameAsOnTheCpu(dir_.Path("model.pth"), kMlp, {.form = {at::kHalf, true}});
}

TEST_F(WeightsUploadTest, NamesOfOneSideAloneAreTakenWhereThatIsAllowed) {
  StateDict weights = RandomWeights(*NewNet(kResNet), 1);
  weights.tensors.erase(weights.tensors.begin(), weights.tensors.begin() + 8);
  weights.tensors.push_back({"more", at::ones({3'000'000})});
  weights.tensors.push_back({"empty", at::ones({0, 4})});
  const std::string path = Write(weights);
  ExpectSameAsOnTheCpu(path, kResNet, {.strict = false});
  ExpectSameAsOnTheCpu(path, kResNet, {.strict = false, .form = {at::kBFloat16, true}});
}

TEST_F(WeightsUploadTest, OnePieceOfDeviceMemoryAndNoneOfTheHost) {
  const auto checkpoint = OpenCheckpoint(WriteRandom(kResNet));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const simdevice::Statistics before = simdevice::StatisticsOf(sim0_);
  const int64_t pinned = simdevice::PinnedBytes();
  const Loaded loaded = Upload(**checkpoint, kResNet, {sim0_});
  ASSERT_TRUE(loaded.id.ok()) << loaded.id.status();
  const simdevice::Statistics after = simdevice::StatisticsOf(sim0_);
  EXPECT_EQ(after.allocations - before.allocations, 1);
  EXPECT_NEAR(static_cast<double>(after.live_bytes - before.live_bytes),
              static_cast<double>(loaded.plan.weights_bytes), 512);
  EXPECT_EQ(simdevice::PinnedBytes(), pinned);
}

TEST_F(WeightsUploadTest, SeveralDevicesAreGivenTheSame) {
  const auto checkpoint = OpenCheckpoint(WriteRandom(kResNet));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const Loaded loaded =
      Upload(**checkpoint, kResNet, {sim0_, sim1_}, {.form = {at::kBFloat16, true}});
  ASSERT_TRUE(loaded.id.ok()) << loaded.id.status();
  const auto state = ReadStateDict(**checkpoint);
  const std::unique_ptr<models::Net> expected = NewNet(kResNet);
  ASSERT_TRUE(LoadStateDict(*expected, *state, {.form = {at::kBFloat16, true}}).ok());
  ExpectEqual(*loaded.nets[0], *expected, sim0_);
  ExpectEqual(*loaded.nets[1], *expected, sim1_);
}

TEST_F(WeightsUploadTest, MemoryIsWrittenAgainOnlyWhenTheDeviceHasReadIt) {
  const auto checkpoint = OpenCheckpoint(WriteRandom(kResNet));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  simdevice::Hold(sim0_);
  Loaded loaded;
  std::thread load([&] { loaded = Upload(**checkpoint, kResNet, {sim0_}); });
  while (!simdevice::IsHostWaiting(sim0_)) std::this_thread::yield();
  simdevice::Release(sim0_);
  load.join();
  ASSERT_TRUE(loaded.id.ok()) << loaded.id.status();
  const auto state = ReadStateDict(**checkpoint);
  const std::unique_ptr<models::Net> expected = NewNet(kResNet);
  ASSERT_TRUE(LoadStateDict(*expected, *state).ok());
  ExpectEqual(*loaded.nets[0], *expected, sim0_);
}

TEST_F(WeightsUploadTest, FileThatChangesIsAborted) {
  const std::string path = WriteRandom(kWide);
  const auto checkpoint = OpenCheckpoint(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const int64_t live = simdevice::StatisticsOf(sim0_).live_bytes;
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 4);
  const Loaded loaded = Upload(**checkpoint, kWide, {sim0_});
  EXPECT_EQ(loaded.id.status().code(), absl::StatusCode::kAborted) << loaded.id.status();
  ExpectNothingLeft(live, 0);
}

TEST_F(WeightsUploadTest, MemoryThatIsTooSmallIsToldWithWhatIsNeededAndFree) {
  const auto checkpoint = OpenCheckpoint(WriteRandom(kWide));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const int64_t live = simdevice::StatisticsOf(sim0_).live_bytes;
  simdevice::LimitMemory(sim0_, live + 1'000'000);
  const Loaded loaded = Upload(**checkpoint, kWide, {sim0_});
  EXPECT_EQ(loaded.id.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(loaded.id.status().message()),
              HasSubstr("sim:0: no memory for the weights: 12004096 bytes are needed, 1000000 of"));
  ExpectNothingLeft(live, 0);
}

TEST_F(WeightsUploadTest, FailureAtAnyAllocationLeavesNothing) {
  const auto checkpoint = OpenCheckpoint(WriteRandom(kResNet));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const LoadOptions options = {.form = {at::kBFloat16, true}};
  const int64_t live = simdevice::StatisticsOf(sim0_).live_bytes;
  bool loaded_at_last = false;
  int64_t failures = 0;
  for (int64_t n = 1; !loaded_at_last; ++n) {
    simdevice::FailAllocation(sim0_, n);
    {
      const Loaded loaded = Upload(**checkpoint, kResNet, {sim1_, sim0_}, options);
      loaded_at_last = loaded.id.ok();
      if (!loaded_at_last) {
        ++failures;
        EXPECT_EQ(loaded.id.status().code(), absl::StatusCode::kResourceExhausted);
      }
    }
    ExpectNothingLeft(live, 0);
    EXPECT_EQ(simdevice::StatisticsOf(sim1_).live_bytes, 0);
  }
  EXPECT_EQ(failures, 2);  // the weights, and what is cast
  simdevice::Reset();
  simdevice::FailPinnedAllocation(1);
  // The host's allocator is asked again once it has given back what it keeps.
  EXPECT_TRUE(Upload(**checkpoint, kResNet, {sim0_}, options).id.ok());
  ExpectNothingLeft(live, 0);
}

TEST_F(WeightsUploadTest, FaultAtAnyStepLosesTheDeviceAndLeavesNothing) {
  const auto checkpoint = OpenCheckpoint(WriteRandom(kWide));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const LoadOptions options = {.form = {at::kHalf, false}};
  const int64_t live = simdevice::StatisticsOf(sim0_).live_bytes;
  bool loaded_at_last = false;
  int64_t failures = 0;
  for (int64_t n = 1; !loaded_at_last; ++n) {
    simdevice::FailKernel(sim0_, n);
    DeviceHealth health;
    {
      std::unique_ptr<models::Net> net = NewNet(kWide);
      const auto fit = FitStateDict(*net, OutlineStateDict(**checkpoint), options);
      ASSERT_TRUE(fit.ok());
      const auto plan = PlanUpload(**checkpoint, *net, *fit, options.form);
      ASSERT_TRUE(plan.ok());
      const UploadTarget target = {simdevice::NewStream(sim0_), net.get()};
      const auto id = UploadWeights(**checkpoint, *plan, {target}, &health);
      loaded_at_last = id.ok();
      if (!loaded_at_last) {
        ++failures;
        EXPECT_EQ(id.status().code(), absl::StatusCode::kUnavailable) << id.status();
        EXPECT_TRUE(health.LostBecause("sim:0").has_value());
      }
    }
    ExpectNothingLeft(live, 0);
    simdevice::Reset();
  }
  EXPECT_GE(failures, 6);  // three portions, each copied and cast
}

}  // namespace
}  // namespace sconce
