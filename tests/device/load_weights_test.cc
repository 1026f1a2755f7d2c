// That weights on a device are those the CPU would have, and that a load that fails at any step
// leaves nothing behind.
#include <ATen/ops/ones.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/device/weights_fixture.h"
#include "tests/support/checkpoint_builders.h"

namespace sconce {
namespace {

using testing::HasSubstr;

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

class LoadWeightsTest : public WeightsTest {
 protected:
  // Loads the file for the CPU and for the device, and compares.
  void ExpectSameAsOnTheCpu(const std::string& path, const Network& network,
                            const LoadOptions& options = {}) {
    const auto checkpoint = OpenCheckpoint(path);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const auto state = ReadStateDict(**checkpoint);
    ASSERT_TRUE(state.ok()) << state.status();
    const std::unique_ptr<models::Net> expected = NewNet(network);
    const auto keys = LoadStateDict(*expected, *state, options);
    ASSERT_TRUE(keys.ok()) << keys.status();
    for (const auto& devices :
         std::vector<std::vector<c10::Device>>{{sim1_}, {kCpu}, {kCpu, sim0_}}) {
      pool_ = std::make_unique<TensorPool>();
      const Loaded loaded = LoadTo(**checkpoint, network, devices, options);
      ASSERT_TRUE(loaded.weights.ok()) << loaded.weights.status();
      EXPECT_EQ(loaded.weights->weights_id, state->weights_id);
      for (size_t i = 0; i < devices.size(); ++i) {
        EXPECT_EQ(loaded.weights->resident[i]->shared_bytes(), 0);
        ExpectEqual(*loaded.nets[i], *expected, devices[i]);
      }
      const Loaded again = LoadTo(**checkpoint, network, devices, options);
      ASSERT_TRUE(again.weights.ok()) << again.weights.status();
      for (size_t i = 0; i < devices.size(); ++i) {
        ExpectEqual(*again.nets[i], *expected, devices[i]);
      }
    }
  }
};

TEST_F(LoadWeightsTest, WeightsAreThoseOfTheCpuInEveryForm) {
  const std::string path = WriteRandom(kResNet);
  for (const bool channels_last : {false, true}) {
    for (const auto floating : {std::optional<at::ScalarType>(), {at::kBFloat16}, {at::kHalf}}) {
      SCOPED_TRACE(testing::Message() << "channels_last " << channels_last << ", type "
                                      << (floating ? c10::toString(*floating) : "own"));
      ExpectSameAsOnTheCpu(path, kResNet, {.form = {floating, channels_last}});
    }
  }
}

TEST_F(LoadWeightsTest, TypesOfTheFileAreCast) {
  for (const at::ScalarType type : {at::kHalf, at::kBFloat16, at::kDouble}) {
    SCOPED_TRACE(c10::toString(type));
    ExpectSameAsOnTheCpu(WriteRandom(kWide, type), kWide);
  }
}

TEST_F(LoadWeightsTest, TensorsThatAreNotContiguousAreGathered) {
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

TEST_F(LoadWeightsTest, TiedTensorsShareMemory) {
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
    const Loaded loaded = LoadTo(**checkpoint, kMlp, {sim0_}, {.form = form});
    ASSERT_TRUE(loaded.weights.ok()) << loaded.weights.status();
    const auto state = loaded.nets[0]->State();
    EXPECT_EQ(state[0].tensor.const_data_ptr(), state[2].tensor.const_data_ptr());
    EXPECT_NE(state[1].tensor.const_data_ptr(), state[3].tensor.const_data_ptr());
    EXPECT_EQ(loaded.plan.weights_bytes, 512 * 3);
  }
  ExpectSameAsOnTheCpu(dir_.Path("model.pth"), kMlp);
  ExpectSameAsOnTheCpu(dir_.Path("model.pth"), kMlp, {.form = {at::kHalf, true}});
}

TEST_F(LoadWeightsTest, NamesOfOneSideAloneAreTakenWhereThatIsAllowed) {
  StateDict weights = RandomWeights(*NewNet(kResNet), 1);
  weights.tensors.erase(weights.tensors.begin(), weights.tensors.begin() + 8);
  weights.tensors.push_back({"more", at::ones({3'000'000})});
  weights.tensors.push_back({"empty", at::ones({0, 4})});
  const std::string path = Write(weights);
  ExpectSameAsOnTheCpu(path, kResNet, {.strict = false});
  ExpectSameAsOnTheCpu(path, kResNet, {.strict = false, .form = {at::kBFloat16, true}});
}

TEST_F(LoadWeightsTest, TheWeightsAndNoneOfTheHostsMemoryStay) {
  const auto checkpoint = OpenCheckpoint(WriteRandom(kResNet));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const int64_t before = simdevice::StatisticsOf(sim0_).live_bytes;
  const int64_t pinned = simdevice::PinnedBytes();
  {
    const Loaded loaded = LoadTo(**checkpoint, kResNet, {sim0_});
    ASSERT_TRUE(loaded.weights.ok()) << loaded.weights.status();
    const int64_t taken = simdevice::StatisticsOf(sim0_).live_bytes - before;
    EXPECT_LE(taken, loaded.weights->resident[0]->size_bytes());
    EXPECT_GE(taken, loaded.weights->resident[0]->size_bytes() * 99 / 100);
    EXPECT_EQ(simdevice::PinnedBytes(), pinned);
  }
  ExpectNothingLeft(before, pinned);
}

TEST_F(LoadWeightsTest, SeveralDevicesAreGivenTheSame) {
  const auto checkpoint = OpenCheckpoint(WriteRandom(kResNet));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const Loaded loaded =
      LoadTo(**checkpoint, kResNet, {sim0_, sim1_}, {.form = {at::kBFloat16, true}});
  ASSERT_TRUE(loaded.weights.ok()) << loaded.weights.status();
  const auto state = ReadStateDict(**checkpoint);
  const std::unique_ptr<models::Net> expected = NewNet(kResNet);
  ASSERT_TRUE(LoadStateDict(*expected, *state, {.form = {at::kBFloat16, true}}).ok());
  ExpectEqual(*loaded.nets[0], *expected, sim0_);
  ExpectEqual(*loaded.nets[1], *expected, sim1_);
}

TEST_F(LoadWeightsTest, MemoryIsWrittenAgainOnlyWhenTheDeviceHasReadIt) {
  const auto checkpoint = OpenCheckpoint(WriteRandom(kResNet));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  simdevice::Hold(sim0_);
  Loaded loaded;
  std::thread load([&] { loaded = LoadTo(**checkpoint, kResNet, {sim0_}); });
  while (!simdevice::IsHostWaiting(sim0_)) std::this_thread::yield();
  simdevice::Release(sim0_);
  load.join();
  ASSERT_TRUE(loaded.weights.ok()) << loaded.weights.status();
  const auto state = ReadStateDict(**checkpoint);
  const std::unique_ptr<models::Net> expected = NewNet(kResNet);
  ASSERT_TRUE(LoadStateDict(*expected, *state).ok());
  ExpectEqual(*loaded.nets[0], *expected, sim0_);
}

TEST_F(LoadWeightsTest, FileThatChangesIsAborted) {
  const std::string path = WriteRandom(kWide);
  const auto checkpoint = OpenCheckpoint(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const int64_t live = simdevice::StatisticsOf(sim0_).live_bytes;
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 4);
  const Loaded loaded = LoadTo(**checkpoint, kWide, {sim0_});
  EXPECT_EQ(loaded.weights.status().code(), absl::StatusCode::kAborted) << loaded.weights.status();
  ExpectNothingLeft(live, 0);
}

TEST_F(LoadWeightsTest, MemoryThatIsTooSmallIsToldWithWhatIsNeededAndFree) {
  const auto checkpoint = OpenCheckpoint(WriteRandom(kWide));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const int64_t live = simdevice::StatisticsOf(sim0_).live_bytes;
  simdevice::LimitMemory(sim0_, live + 1'000'000);
  const Loaded loaded = LoadTo(**checkpoint, kWide, {sim0_});
  EXPECT_EQ(loaded.weights.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(loaded.weights.status().message()),
              HasSubstr("sim:0: no memory for the weights: 12004352 bytes are needed, 1000000 of"));
  ExpectNothingLeft(live, 0);
}

TEST_F(LoadWeightsTest, FailureAtAnyAllocationLeavesNothing) {
  const auto checkpoint = OpenCheckpoint(WriteRandom(kResNet));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const LoadOptions options = {.form = {at::kBFloat16, true}};
  const int64_t live = simdevice::StatisticsOf(sim0_).live_bytes;
  bool loaded_at_last = false;
  int64_t failures = 0;
  for (int64_t n = 1; !loaded_at_last; ++n) {
    simdevice::FailAllocation(sim0_, n);
    {
      const Loaded loaded = LoadTo(**checkpoint, kResNet, {sim1_, sim0_}, options);
      loaded_at_last = loaded.weights.ok();
      if (!loaded_at_last) {
        ++failures;
        EXPECT_EQ(loaded.weights.status().code(), absl::StatusCode::kResourceExhausted);
      }
    }
    ExpectNothingLeft(live, 0);
    EXPECT_EQ(simdevice::StatisticsOf(sim1_).live_bytes, 0);
  }
  EXPECT_EQ(failures, 123);  // 122 tensors, and what is cast
  simdevice::Reset();
  simdevice::FailPinnedAllocation(1);
  // The host's allocator is asked again once it has given back what it keeps.
  EXPECT_TRUE(LoadTo(**checkpoint, kResNet, {sim0_}, options).weights.ok());
  ExpectNothingLeft(live, 0);
}

TEST_F(LoadWeightsTest, FaultAtAnyStepLosesTheDeviceAndLeavesNothing) {
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
      const auto id = LoadWeights(**checkpoint, *plan, {TargetOn(sim0_)}, {pool_.get(), &health});
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
