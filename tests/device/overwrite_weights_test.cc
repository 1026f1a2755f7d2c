// That weights written over others are those of the file, at the same addresses, that what was
// there comes back where that is wanted, and that nobody else's tensors are touched.
#include <ATen/ops/ones.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tests/device/weights_fixture.h"
#include "tests/support/simdevice/accelerator.h"

namespace sconce {
namespace {

constexpr int64_t kPlenty = int64_t{1} << 30;

class OverwriteWeightsTest : public WeightsTest {
 protected:
  StateDict Changed(const Network& network, const std::string& name) {
    StateDict weights = RandomWeights(*NewNet(network), 1);
    for (StateEntry& entry : weights.tensors) {
      if (entry.name == name) entry.tensor[0].add_(1);
    }
    return weights;
  }

  struct Outcome {
    absl::StatusOr<std::unique_ptr<Overwrite>> overwrite;
    bool destroyed = false;
  };
  Outcome WriteOver(const Loaded& live, const std::string& path, const Network& network,
                    const std::vector<c10::Device>& devices, const LoadOptions& options = {},
                    int64_t keep_bytes = kPlenty) {
    const auto checkpoint = OpenCheckpoint(path);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    const UploadPlan plan = PlanFor(**checkpoint, network, options);
    const std::vector<WeightsTarget> targets = TargetsOn(devices);
    const WeightsOptions weights_options = {pool_.get(), &health_};
    const auto survey = SurveyWeights(**checkpoint, plan, targets, weights_options);
    EXPECT_TRUE(survey.ok()) << survey.status();
    Outcome outcome;
    if (before_write_) before_write_();
    outcome.overwrite = OverwriteWeights(**checkpoint, plan, targets, live.weights->resident,
                                         **survey, weights_options, keep_bytes, &outcome.destroyed);
    return outcome;
  }

  std::function<void()> before_write_;
};

TEST_F(OverwriteWeightsTest, SameAddressesHoldTheNewBitsAndUndoBringsTheOldOnesBack) {
  const std::string first = Write(RandomWeights(*NewNet(kResNet), 1), "1.safetensors");
  for (const char* name : {"fc.weight", "layer4.1.conv2.weight", "conv1.weight"}) {
    const std::string second = Write(Changed(kResNet, name), "2.safetensors");
    for (const LoadOptions& options : {LoadOptions{}, LoadOptions{true, {at::kBFloat16, true}}}) {
      const std::vector<c10::Device> devices = {kCpu, sim0_, sim1_};
      pool_ = std::make_unique<TensorPool>();
      const Loaded live = LoadFile(first, kResNet, devices, options);
      const int64_t bytes = LiveOn(sim0_);
      Outcome outcome = WriteOver(live, second, kResNet, devices, options);
      ASSERT_TRUE(outcome.overwrite.ok()) << outcome.overwrite.status();
      EXPECT_FALSE(outcome.destroyed);
      EXPECT_EQ(LiveOn(sim0_), bytes);
      EXPECT_EQ(simdevice::PinnedBytes(), 0);
      const auto new_net = Expected(second, kResNet, options);
      // The networks that were there see what was written.
      for (size_t i = 0; i < 3; ++i) ExpectEqual(*live.nets[i], *new_net, devices[i]);
      const auto again = NewNet(kResNet);
      (*outcome.overwrite)->resident()[1]->AssignTo(*again);
      ExpectEqual(*again, *new_net, sim0_);
      EXPECT_LT((*outcome.overwrite)->resident()[0]->shared_bytes(), live.plan.weights_bytes);

      ASSERT_TRUE((*outcome.overwrite)->Undo().ok());
      const auto old_net = Expected(first, kResNet, options);
      for (size_t i = 0; i < 3; ++i) ExpectEqual(*live.nets[i], *old_net, devices[i]);
      EXPECT_FALSE((*outcome.overwrite)->Undo().ok());
      // The pool knows them as what they are again.
      EXPECT_EQ(LoadFile(first, kResNet, {sim1_}, options).on(0).shared_bytes(),
                live.plan.weights_bytes);
    }
  }
}

TEST_F(OverwriteWeightsTest, ThePoolKnowsTheNewContentAndTheNextChangeMayFollow) {
  const std::string first = Write(RandomWeights(*NewNet(kWide), 1), "1.safetensors");
  const std::string second = Write(Changed(kWide, "bias"), "2.safetensors");
  const Loaded live = LoadFile(first, kWide, {sim0_});
  Outcome outcome = WriteOver(live, second, kWide, {sim0_});
  ASSERT_TRUE(outcome.overwrite.ok()) << outcome.overwrite.status();
  Loaded now;
  now.weights = LoadedWeights{"", (*outcome.overwrite)->resident()};
  outcome.overwrite->reset();
  {
    const Loaded found = LoadFile(second, kWide, {sim0_});
    EXPECT_EQ(found.on(0).shared_bytes(), found.on(0).size_bytes());
    EXPECT_LT(LoadFile(first, kWide, {sim0_}).on(0).shared_bytes(), found.on(0).size_bytes());
  }
  // The first version is still there, but has nothing any more.
  const Outcome back = WriteOver(now, first, kWide, {sim0_});
  ASSERT_TRUE(back.overwrite.ok()) << back.overwrite.status();
  ExpectEqual(*live.nets[0], *Expected(first, kWide), sim0_);
}

TEST_F(OverwriteWeightsTest, OnlyChunksThatChangedAreWritten) {
  const std::string first = Write(RandomWeights(*NewNet(kWide), 1), "1.safetensors");
  const std::string second = Write(Changed(kWide, "weight"), "2.safetensors");
  const Loaded live = LoadFile(first, kWide, {sim0_, kCpu});
  // One row of 12 KB lies in one chunk of 512 KiB.
  const Outcome kept = WriteOver(live, second, kWide, {sim0_, kCpu}, {}, 2 * (512 << 10));
  ASSERT_TRUE(kept.overwrite.ok()) << kept.overwrite.status();
  ExpectEqual(*live.nets[0], *Expected(second, kWide), sim0_);
  EXPECT_TRUE((*kept.overwrite)->Undo().ok());
  const Outcome not_kept = WriteOver(live, second, kWide, {sim0_, kCpu}, {}, 2 * (512 << 10) - 1);
  ASSERT_TRUE(not_kept.overwrite.ok()) << not_kept.overwrite.status();
  EXPECT_EQ((*not_kept.overwrite)->Undo().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(OverwriteWeightsTest, WhatAnotherVersionHasIsRefusedAndUntouched) {
  const std::string first = Write(RandomWeights(*NewNet(kWide), 1), "1.safetensors");
  const Loaded live = LoadFile(first, kWide, {sim0_, kCpu});
  {
    const Loaded other = LoadFile(first, kWide, {sim0_});
    const Outcome refused =
        WriteOver(live, Write(Changed(kWide, "weight"), "2.safetensors"), kWide, {sim0_, kCpu});
    EXPECT_EQ(refused.overwrite.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_FALSE(refused.destroyed);
    ExpectEqual(*other.nets[0], *Expected(first, kWide), sim0_);
    ExpectEqual(*live.nets[1], *Expected(first, kWide), kCpu);
    // The one that is nobody else's is found as before.
    EXPECT_EQ(LoadFile(first, kWide, {kCpu}).on(0).shared_bytes(), live.plan.weights_bytes);
  }
  EXPECT_TRUE(WriteOver(live, dir_.Path("2.safetensors"), kWide, {sim0_, kCpu}).overwrite.ok());
  const Outcome other_form =
      WriteOver(live, first, kWide, {sim0_, kCpu}, {true, {at::kHalf, false}});
  EXPECT_EQ(other_form.overwrite.status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(OverwriteWeightsTest, FileThatChangesIsAbortedAndWhatWasWrittenComesBack) {
  const std::string first = Write(RandomWeights(*NewNet(kResNet), 1), "1.safetensors");
  const std::string second = Write(RandomWeights(*NewNet(kResNet), 2), "2.safetensors");
  const std::vector<c10::Device> devices = {sim0_, kCpu};
  const Loaded live = LoadFile(first, kResNet, devices);
  before_write_ = [&] {
    std::filesystem::resize_file(second, std::filesystem::file_size(second) / 2);
  };
  const Outcome outcome = WriteOver(live, second, kResNet, devices);
  EXPECT_EQ(outcome.overwrite.status().code(), absl::StatusCode::kAborted);
  EXPECT_FALSE(outcome.destroyed);
  ExpectEqual(*live.nets[0], *Expected(first, kResNet), sim0_);
  ExpectEqual(*live.nets[1], *Expected(first, kResNet), kCpu);
}

TEST_F(OverwriteWeightsTest, FaultAtAnyStepRestoresOrSaysThatTheWeightsAreGone) {
  const std::string first = Write(RandomWeights(*NewNet(kWide), 1), "1.safetensors");
  const std::string second = Write(RandomWeights(*NewNet(kWide), 2), "2.safetensors");
  const LoadOptions options = {true, {at::kHalf, false}};
  bool written_at_last = false;
  int64_t spoilt = 0;
  const int64_t before = LiveOn(sim0_);
  for (int64_t n = 1; !written_at_last; ++n) {
    {
      const Loaded live = LoadFile(first, kWide, {sim0_}, options);
      ASSERT_TRUE(live.weights.ok()) << live.weights.status();
      before_write_ = [&] { simdevice::FailKernel(sim0_, n); };
      const Outcome outcome = WriteOver(live, second, kWide, {sim0_}, options);
      written_at_last = outcome.overwrite.ok();
      if (!written_at_last) {
        EXPECT_EQ(outcome.overwrite.status().code(), absl::StatusCode::kUnavailable);
        spoilt += outcome.destroyed ? 1 : 0;
      }
    }
    simdevice::Reset();
    EXPECT_EQ(LiveOn(sim0_), before);
    EXPECT_EQ(simdevice::PinnedBytes(), 0);
  }
  EXPECT_GE(spoilt, 6);  // three pieces, each copied and cast; a lost device brings nothing back
}

TEST_F(OverwriteWeightsTest, MemoryThatRunsOutChangesNothing) {
  const std::string first = Write(RandomWeights(*NewNet(kWide), 1), "1.safetensors");
  const std::string second = Write(RandomWeights(*NewNet(kWide), 2), "2.safetensors");
  const LoadOptions options = {true, {at::kHalf, false}};
  const Loaded live = LoadFile(first, kWide, {sim0_}, options);
  before_write_ = [&] { simdevice::FailAllocation(sim0_, 1); };
  const Outcome outcome = WriteOver(live, second, kWide, {sim0_}, options);
  EXPECT_EQ(outcome.overwrite.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(outcome.destroyed);
  ExpectEqual(*live.nets[0], *Expected(first, kWide, options), sim0_);
}

}  // namespace
}  // namespace sconce
