// That a tensor which is on a device already takes no memory there, whoever brought it, and that
// what it takes goes back with its last owner.
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "tests/device/weights_fixture.h"
#include "tests/support/simdevice/accelerator.h"

namespace sconce {
namespace {

using testing::HasSubstr;

constexpr int64_t kWideBytes = 12'000'256 + 4096;
constexpr int64_t kBiasBytes = 4096;

std::set<const void*> AddressesOf(const models::Net& net) {
  std::set<const void*> addresses;
  for (const models::NamedTensor& own : net.State()) {
    if (own.tensor.numel() > 0) addresses.insert(own.tensor.const_data_ptr());
  }
  return addresses;
}

class TensorSharingTest : public WeightsTest {
 protected:
  TensorSharingTest() : first_(RandomWeights(*NewNet(kWide), 1)) {
    for (const StateEntry& entry : first_.tensors) {
      other_head_.tensors.push_back({entry.name, entry.tensor.clone()});
    }
    Tensor(other_head_, "bias").add_(1);
  }

  static at::Tensor& Tensor(StateDict& weights, const std::string& name) {
    return std::find_if(weights.tensors.begin(), weights.tensors.end(),
                        [&](const StateEntry& entry) { return entry.name == name; })
        ->tensor;
  }
  // A weight that differs from the first file's in one element.
  StateDict WithOneChange(int64_t row, int64_t column) {
    StateDict weights;
    for (const StateEntry& entry : first_.tensors) {
      weights.tensors.push_back({entry.name, entry.tensor.clone()});
    }
    Tensor(weights, "weight")[row][column] += 1;
    return weights;
  }

  StateDict first_;
  StateDict other_head_;
};

TEST_F(TensorSharingTest, OnlyWhatChangedIsTakenAndItGoesBackExactly) {
  const int64_t before = LiveOn(sim0_);
  const std::string first = Write(first_, "1.safetensors");
  const std::string second = Write(other_head_, "2.safetensors");
  {
    auto one = std::make_unique<Loaded>(LoadFile(first, kWide, {sim0_, kCpu}));
    ASSERT_TRUE(one->weights.ok()) << one->weights.status();
    EXPECT_EQ(LiveOn(sim0_) - before, kWideBytes);
    {
      const Loaded two = LoadFile(second, kWide, {sim0_, kCpu});
      ASSERT_TRUE(two.weights.ok()) << two.weights.status();
      EXPECT_EQ(LiveOn(sim0_) - before, kWideBytes + kBiasBytes);
      for (const size_t i : {0, 1}) {
        EXPECT_EQ(two.on(i).size_bytes(), kWideBytes);
        EXPECT_EQ(two.on(i).shared_bytes(), kWideBytes - kBiasBytes);
      }
      ExpectEqual(*two.nets[0], *Expected(second, kWide), sim0_);
      ExpectEqual(*two.nets[1], *Expected(second, kWide), kCpu);
      one = nullptr;
      EXPECT_EQ(LiveOn(sim0_) - before, kWideBytes);
      ExpectEqual(*two.nets[0], *Expected(second, kWide), sim0_);
      // Back to the first file, whose weight is still there.
      const Loaded back = LoadFile(first, kWide, {sim0_});
      EXPECT_EQ(LiveOn(sim0_) - before, kWideBytes + kBiasBytes);
      ExpectEqual(*back.nets[0], *Expected(first, kWide), sim0_);
    }
  }
  EXPECT_EQ(LiveOn(sim0_), before);
  // Nothing is there to be found.
  const Loaded fresh = LoadFile(first, kWide, {sim0_});
  EXPECT_EQ(fresh.on(0).shared_bytes(), 0);
}

TEST_F(TensorSharingTest, RollingBackToWhatIsRetainedTakesNothingAndIsRecognisedByTheBytesAlone) {
  const std::string path = Write(RandomWeights(*NewNet(kResNet), 1), "1.safetensors");
  const LoadOptions form = {.form = {at::kBFloat16, true}};
  const Loaded retained = LoadFile(path, kResNet, {sim0_, sim1_}, form);
  ASSERT_TRUE(retained.weights.ok()) << retained.weights.status();
  const int64_t live = LiveOn(sim0_) + LiveOn(sim1_);
  const int64_t allocations = simdevice::StatisticsOf(sim0_).allocations;
  const int64_t copies = simdevice::StatisticsOf(sim0_).copies;
  const Loaded again = LoadFile(path, kResNet, {sim0_, sim1_}, form);
  EXPECT_EQ(LiveOn(sim0_) + LiveOn(sim1_), live);
  EXPECT_EQ(simdevice::StatisticsOf(sim0_).allocations, allocations);
  EXPECT_EQ(simdevice::StatisticsOf(sim0_).copies, copies);
  EXPECT_EQ(AddressesOf(*again.nets[1]), AddressesOf(*retained.nets[1]));
  EXPECT_EQ(again.weights->weights_id, retained.weights->weights_id);
}

TEST_F(TensorSharingTest, ModelsWithOneBackboneShareItUnderOtherNames) {
  const auto net = NewNet(kMlp);
  StateDict weights = RandomWeights(*net, 1);
  const Loaded mlp = LoadFile(Write(weights, "mlp.safetensors"), kMlp, {sim0_, kCpu});
  const Network linear = {
      "linear", {{"in_features", int64_t{8}}, {"out_features", int64_t{8}}, {"bias", true}}};
  StateDict other;
  other.tensors.push_back({"module.weight", Tensor(weights, "2.weight")});
  other.tensors.push_back({"module.bias", at::ones({8})});
  const Loaded shared = LoadFile(Write(other, "linear.safetensors"), linear, {kCpu, sim0_});
  ASSERT_TRUE(shared.weights.ok()) << shared.weights.status();
  EXPECT_EQ(shared.on(0).shared_bytes(), 512);
  EXPECT_EQ(shared.on(1).shared_bytes(), 512);
}

TEST_F(TensorSharingTest, EachFormIsOnItsOwnAndIsRecognised) {
  const std::string path = Write(first_);
  const LoadOptions half = {.form = {at::kHalf, false}};
  const Loaded full = LoadFile(path, kWide, {sim0_});
  const Loaded halves = LoadFile(path, kWide, {sim0_}, half);
  EXPECT_EQ(halves.on(0).shared_bytes(), 0);
  EXPECT_EQ(LoadFile(path, kWide, {sim0_}).on(0).shared_bytes(), kWideBytes);
  const Loaded again = LoadFile(path, kWide, {sim0_}, half);
  EXPECT_EQ(again.on(0).shared_bytes(), again.on(0).size_bytes());
  // Another device has nothing yet.
  EXPECT_EQ(LoadFile(path, kWide, {sim1_}).on(0).shared_bytes(), 0);
  // The same bytes in another shape are another tensor.
  const Network turned = {
      "linear", {{"in_features", int64_t{1000}}, {"out_features", int64_t{3000}}, {"bias", true}}};
  StateDict weights;
  weights.tensors.push_back({"weight", Tensor(first_, "weight").view({3000, 1000})});
  weights.tensors.push_back({"bias", at::zeros({3000})});
  EXPECT_EQ(LoadFile(Write(weights, "t.safetensors"), turned, {sim0_}).on(0).shared_bytes(), 0);
}

TEST_F(TensorSharingTest, EveryChunkCounts) {
  const Loaded first = LoadFile(Write(first_, "1.safetensors"), kWide, {sim0_, kCpu});
  // 12 MB are 23 chunks: in the first, in the middle of the first portion, and the last element.
  for (const auto& [row, column] : {std::pair<int64_t, int64_t>{0, 0}, {400, 17}, {999, 2999}}) {
    for (const auto& floating : {std::optional<at::ScalarType>(), {at::kHalf}}) {
      SCOPED_TRACE(row);
      const LoadOptions options = {.form = {floating, false}};
      const Loaded known = LoadFile(dir_.Path("1.safetensors"), kWide, {sim0_, kCpu}, options);
      const std::string path = Write(WithOneChange(row, column), "2.safetensors");
      for (const auto& devices : std::vector<std::vector<c10::Device>>{{sim0_}, {kCpu}}) {
        const Loaded second = LoadFile(path, kWide, devices, options);
        ASSERT_TRUE(second.weights.ok()) << second.weights.status();
        EXPECT_EQ(second.on(0).size_bytes() - second.on(0).shared_bytes(),
                  floating.has_value() ? 6'000'128 : kWideBytes - kBiasBytes);
        ExpectEqual(*second.nets[0], *Expected(path, kWide, options), devices[0]);
      }
    }
  }
}

TEST_F(TensorSharingTest, TargetsMayDifferInWhatTheyHave) {
  const std::string first = Write(first_, "1.safetensors");
  const std::string second = Write(WithOneChange(999, 0), "2.safetensors");
  const Loaded on_one = LoadFile(first, kWide, {sim0_});
  const Loaded on_other = LoadFile(second, kWide, {sim1_, kCpu});
  const Loaded both = LoadFile(second, kWide, {sim0_, sim1_, kCpu});
  ASSERT_TRUE(both.weights.ok()) << both.weights.status();
  EXPECT_EQ(both.on(0).shared_bytes(), kBiasBytes);
  EXPECT_EQ(both.on(1).shared_bytes(), kWideBytes);
  EXPECT_EQ(both.on(2).shared_bytes(), kWideBytes);
  const auto expected = Expected(second, kWide);
  ExpectEqual(*both.nets[0], *expected, sim0_);
  ExpectEqual(*both.nets[1], *expected, sim1_);
  ExpectEqual(*both.nets[2], *expected, kCpu);
}

TEST_F(TensorSharingTest, TensorsOfOneVersionThatAreAlikeHaveMemoryOfTheirOwn) {
  StateDict weights = RandomWeights(*NewNet(kMlp), 1);
  for (StateEntry& entry : weights.tensors) entry.tensor.zero_();
  const std::string path = Write(weights);
  const Loaded first = LoadFile(path, kMlp, {sim0_, kCpu});
  const Loaded second = LoadFile(path, kMlp, {sim0_, kCpu});
  for (const size_t i : {0, 1}) {
    EXPECT_EQ(AddressesOf(*first.nets[i]).size(), 4u);
    EXPECT_EQ(AddressesOf(*second.nets[i]), AddressesOf(*first.nets[i]));
  }
}

TEST_F(TensorSharingTest, PeakIsWhatChangedAndSurveySaysItBefore) {
  const std::string first = Write(RandomWeights(*NewNet(kResNet), 1), "1.safetensors");
  StateDict weights = RandomWeights(*NewNet(kResNet), 1);
  Tensor(weights, "fc.weight").add_(1);
  Tensor(weights, "layer4.1.conv2.weight").mul_(2);
  const std::string second = Write(weights, "2.safetensors");
  const Loaded live = LoadFile(first, kResNet, {sim0_});
  const int64_t changed = 512 * 512 * 9 * 4 + 512 * 10 * 4;
  const auto checkpoint = OpenCheckpoint(second);
  const UploadPlan plan = PlanFor(**checkpoint, kResNet);
  const auto survey =
      SurveyWeights(**checkpoint, plan, TargetsOn({sim1_, sim0_}), {pool_.get(), &health_});
  ASSERT_TRUE(survey.ok()) << survey.status();
  EXPECT_EQ((*survey)->new_bytes(0), plan.weights_bytes);
  EXPECT_EQ((*survey)->new_bytes(1), changed);
  simdevice::LimitMemory(sim0_, LiveOn(sim0_) + changed);
  const Loaded swapped = LoadTo(**checkpoint, kResNet, {sim0_});
  ASSERT_TRUE(swapped.weights.ok()) << swapped.weights.status();
  EXPECT_EQ(swapped.weights->weights_id, (*survey)->weights_id());
  EXPECT_EQ(swapped.on(0).size_bytes() - swapped.on(0).shared_bytes(), changed);
  ExpectEqual(*swapped.nets[0], *Expected(second, kResNet), sim0_);
}

TEST_F(TensorSharingTest, FaultOfALoadThatSharesLeavesTheOtherVersionAsItWas) {
  const std::string first = Write(first_, "1.safetensors");
  const Loaded live = LoadFile(first, kWide, {sim1_});
  const std::string second = Write(WithOneChange(500, 0), "2.safetensors");
  const int64_t before = LiveOn(sim1_);
  simdevice::FailAllocation(sim1_, 1);
  EXPECT_EQ(LoadFile(second, kWide, {sim1_}).weights.status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(LiveOn(sim1_), before);
  simdevice::Reset();
  const auto checkpoint = OpenCheckpoint(second);
  std::filesystem::resize_file(second, std::filesystem::file_size(second) - 4096);
  EXPECT_EQ(LoadTo(**checkpoint, kWide, {sim1_}).weights.status().code(),
            absl::StatusCode::kAborted);
  EXPECT_EQ(LiveOn(sim1_), before);
  EXPECT_EQ(simdevice::PinnedBytes(), 0);
  ExpectEqual(*live.nets[0], *Expected(first, kWide), sim1_);
  EXPECT_EQ(LoadFile(first, kWide, {sim1_}).on(0).shared_bytes(), kWideBytes);
}

TEST_F(TensorSharingTest, WeightsThatAreNotFiniteAreRefusedUnlessAllowed) {
  StateDict weights = WithOneChange(0, 0);
  Tensor(weights, "weight")[712][5] = std::numeric_limits<float>::quiet_NaN();
  Tensor(weights, "weight")[3][17] = -std::numeric_limits<float>::infinity();
  const auto checkpoint = OpenCheckpoint(Write(weights));
  for (const auto& devices : std::vector<std::vector<c10::Device>>{{sim0_}, {kCpu}}) {
    const Loaded refused = LoadTo(**checkpoint, kWide, devices);
    EXPECT_EQ(refused.weights.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(refused.weights.status().message()),
                HasSubstr("tensor 'weight': expected finite weights, got -inf at [3, 17]"));
    EXPECT_TRUE(LoadTo(**checkpoint, kWide, devices, {}, /*allow_non_finite=*/true).weights.ok());
  }
  const auto survey =
      SurveyWeights(**checkpoint, PlanFor(**checkpoint, kWide), {}, {pool_.get(), &health_});
  EXPECT_EQ(survey.status().code(), absl::StatusCode::kInvalidArgument);
  // What is finite in the file need not be so where it is cast.
  Tensor(weights, "weight").zero_()[0][1] = 65520;
  const std::string large = Write(weights, "large.safetensors");
  EXPECT_TRUE(LoadFile(large, kWide, {kCpu}).weights.ok());
  EXPECT_THAT(
      std::string(
          LoadFile(large, kWide, {kCpu}, {.form = {at::kHalf, false}}).weights.status().message()),
      HasSubstr("got 65520 at [0, 1], too large for float16"));
}

TEST_F(TensorSharingTest, DirectReadsBringWhatIsNewAlone) {
  const auto checkpoint = OpenCheckpoint(Write(WithOneChange(999, 0), "1.safetensors"));
  const UploadPlan plan = PlanFor(**checkpoint, kWide);
  const std::vector<WeightsTarget> targets = TargetsOn({kCpu, sim0_});
  DirectReads all, none, some;
  const auto first = LoadWeights(**checkpoint, plan, targets, {pool_.get(), &health_}, &all);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(all.bytes, 12'004'000);
  const auto same = LoadWeights(**checkpoint, plan, targets, {pool_.get(), &health_}, &none);
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_EQ(none.bytes, 0);
  const std::string path = Write(WithOneChange(0, 0), "2.safetensors");
  const auto other = OpenCheckpoint(path);
  const auto changed = LoadWeights(**other, plan, targets, {pool_.get(), &health_}, &some);
  ASSERT_TRUE(changed.ok()) << changed.status();
  // The rest of the weight, once it is known to be another one.
  EXPECT_GT(some.bytes, 3'000'000);
  EXPECT_LT(some.bytes, 12'000'000);
  const auto net = NewNet(kWide);
  changed->resident[1]->AssignTo(*net);
  ExpectEqual(*net, *Expected(path, kWide), sim0_);
}

TEST(TensorPoolTest, ContentHasAnotherDigestInAnotherPool) {
  const TensorPool one, other;
  const std::string bytes(1000, 'x');
  const auto digest = [&](const TensorPool& pool) {
    KeyedHasher hasher(&pool.key());
    hasher.Update({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()});
    return hasher.Finish();
  };
  EXPECT_EQ(digest(one), digest(one));
  EXPECT_NE(digest(one), digest(other));
}

}  // namespace
}  // namespace sconce
