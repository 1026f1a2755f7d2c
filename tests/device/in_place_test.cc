// Weights that are written over those that answer: what it takes, that graphs go on, and what is
// left where it fails at any step.
#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "server/checkpoint/safetensors/safetensors_writer.h"
#include "tests/device/serving_stack.h"
#include "tests/device/sim_test.h"
#include "tests/support/simdevice/accelerator.h"
#include "tests/support/temp_dir.h"

namespace sconce {
namespace {

using simdevice::StatisticsOf;
using testing::HasSubstr;
using testing::Not;

class InPlaceTest : public SimTest {
 protected:
  static ModelConfig Config(SwapMode swap, bool graphs = true) {
    ModelConfig config = ServingStack::SmallBatches();
    config.swap = swap;
    config.execution.graphs = graphs;
    return config;
  }

  static void ExpectAnswer(ServingStack& stack, int64_t number) {
    const ServingStack::Answer answer = stack.Ask({1, 2, 3}).get();
    EXPECT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(answer.wrong, "");
    EXPECT_EQ(answer.version, number);
  }

  // A sample that version `number` answers as it should.
  static std::string WriteSample(const std::string& path, const Signature& signature,
                                 int64_t number) {
    const std::vector<float> input(4, 1);
    const std::vector<float> output = {32.0f * number, 32.0f * number + 1, 32.0f * number + 2,
                                       32.0f * number + 3};
    auto writer = SafetensorsWriter::Create(path,
                                            {{signature.inputs[0].name, DType::kFloat32, {1, 4}},
                                             {signature.outputs[0].name, DType::kFloat32, {1, 4}}},
                                            {});
    EXPECT_TRUE(writer.ok()) << writer.status();
    for (const size_t i : writer->order()) {
      const std::vector<float>& values = i == 0 ? input : output;
      EXPECT_TRUE(writer->Append({reinterpret_cast<const std::byte*>(values.data()), 16}).ok());
    }
    EXPECT_TRUE(writer->Commit().ok());
    return path;
  }

  static bool WasInPlace(const ServingStack& stack) {
    return stack.live()->provenance.find("written over the weights of version") !=
           std::string::npos;
  }

  const std::vector<c10::Device> both_ = {sim0_, sim1_};
};

TEST_F(InPlaceTest, TheNewVersionHasTheReplicasOfTheOneBefore) {
  for (const std::vector<c10::Device>& devices :
       {both_, std::vector<c10::Device>{c10::Device(c10::kCPU)}}) {
    ServingStack stack(devices, Config(SwapMode::kInPlace));
    ASSERT_TRUE(stack.Load(1).ok());
    EXPECT_FALSE(WasInPlace(stack));
    const auto replicas = stack.live()->replicas;
    const std::string id = stack.live()->weights_id;
    ASSERT_TRUE(stack.Load(2).ok());
    EXPECT_TRUE(WasInPlace(stack));
    EXPECT_EQ(stack.live()->replicas, replicas);
    EXPECT_NE(stack.live()->weights_id, id);
    EXPECT_GT(stack.live()->shared_bytes, 0);
    EXPECT_LT(stack.live()->shared_bytes, stack.live()->weights_bytes);
    ExpectAnswer(stack, 2);
    ASSERT_TRUE(stack.Load(1).ok());
    EXPECT_EQ(stack.live()->weights_id, id);
    ExpectAnswer(stack, 1);
  }
}

TEST_F(InPlaceTest, GraphsReplayTheNewWeightsAndNothingIsCapturedAnew) {
  ServingStack stack({sim0_}, Config(SwapMode::kInPlace));
  ASSERT_TRUE(stack.Load(1).ok());
  ASSERT_THAT(stack.live()->provenance, Not(HasSubstr("without graphs")));
  ExpectAnswer(stack, 1);
  ASSERT_TRUE(stack.Load(2).ok());
  ASSERT_TRUE(WasInPlace(stack));
  const int64_t replays = simdevice::GraphReplays(sim0_);
  ExpectAnswer(stack, 2);
  EXPECT_GT(simdevice::GraphReplays(sim0_), replays);
}

TEST_F(InPlaceTest, WithoutGraphsItIsTheSame) {
  ServingStack stack(both_, Config(SwapMode::kInPlace, /*graphs=*/false));
  ASSERT_TRUE(stack.Load(1).ok());
  ASSERT_TRUE(stack.Load(2).ok());
  EXPECT_TRUE(WasInPlace(stack));
  ExpectAnswer(stack, 2);
}

TEST_F(InPlaceTest, OnlyWhereMemoryDoesNotAllowBoth) {
  for (const SwapMode swap : {SwapMode::kInPlaceIfNeeded, SwapMode::kBeside}) {
    ServingStack stack({sim0_}, Config(swap));
    ASSERT_TRUE(stack.Load(1).ok());
    ASSERT_TRUE(stack.Load(2).ok());
    EXPECT_FALSE(WasInPlace(stack));
    ASSERT_TRUE(stack.AwaitOneVersion());
    // Room for what batches take, and none for weights beside.
    const DeviceFootprint& footprint = stack.live()->footprints[0];
    simdevice::LimitMemory(
        sim0_, StatisticsOf(sim0_).live_bytes + footprint.workspace_bytes + footprint.graphs_bytes);
    const absl::Status third = stack.Load(3);
    if (swap == SwapMode::kBeside) {
      EXPECT_TRUE(absl::IsResourceExhausted(third)) << third;
      EXPECT_THAT(std::string(third.message()), HasSubstr("bytes of memory are needed"));
      EXPECT_EQ(stack.steps(), std::vector<VersionState>{VersionState::kStructureChecked});
      simdevice::Reset();
      ExpectAnswer(stack, 2);
    } else {
      EXPECT_TRUE(third.ok()) << third;
      EXPECT_TRUE(WasInPlace(stack));
      simdevice::Reset();
      ExpectAnswer(stack, 3);
    }
  }
}

TEST_F(InPlaceTest, TheCapIsReasonEnoughOnTheCpu) {
  ModelConfig config = Config(SwapMode::kInPlaceIfNeeded);
  ServingStack stack({c10::kCPU}, config);
  ASSERT_TRUE(stack.Load(1).ok());
  stack.config().device_memory_cap_bytes = stack.live()->weights_bytes * 9 / 8;
  ASSERT_TRUE(stack.Load(2).ok());
  EXPECT_TRUE(WasInPlace(stack)) << stack.live()->provenance;
  ExpectAnswer(stack, 2);
  stack.config().swap = SwapMode::kBeside;
  const absl::Status refused = stack.Load(3);
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("device_memory_cap_bytes allows"));
  stack.config().device_memory_cap_bytes = stack.live()->weights_bytes / 2;
  const absl::Status never = stack.Load(3);
  EXPECT_TRUE(absl::IsFailedPrecondition(never)) << never;
  ExpectAnswer(stack, 2);
}

TEST_F(InPlaceTest, RetainedVersionsAreLetGoFirst) {
  ModelConfig config = Config(SwapMode::kInPlaceIfNeeded);
  config.retained_versions = 2;
  ServingStack stack({c10::kCPU}, config);
  for (int64_t number = 1; number <= 3; ++number) ASSERT_TRUE(stack.Load(number).ok());
  EXPECT_EQ(stack.released(), 0);
  // Room for two versions, of which there are three.
  stack.config().device_memory_cap_bytes = stack.live()->weights_bytes * 9 / 4;
  ASSERT_TRUE(stack.Load(4).ok());
  EXPECT_GT(stack.released(), 0);
  EXPECT_FALSE(WasInPlace(stack));
  ExpectAnswer(stack, 4);
}

TEST_F(InPlaceTest, AnotherWayToRunIsLoadedBeside) {
  ServingStack stack({sim0_}, Config(SwapMode::kInPlace));
  ASSERT_TRUE(stack.Load(1).ok());
  stack.config().max_batch_size = 2;
  ASSERT_TRUE(stack.Load(2).ok());
  EXPECT_FALSE(WasInPlace(stack));
  stack.config().execution.precision = Precision::kBf16;
  ASSERT_TRUE(stack.Load(3).ok());
  EXPECT_FALSE(WasInPlace(stack));
}

TEST_F(InPlaceTest, WhatIsNotPublishedIsTakenBack) {
  for (const std::vector<c10::Device>& devices :
       {both_, std::vector<c10::Device>{c10::Device(c10::kCPU)}}) {
    ServingStack stack(devices, Config(SwapMode::kInPlace));
    ASSERT_TRUE(stack.Load(1).ok());
    ASSERT_TRUE(stack.Load(2, /*publish=*/false).ok());
    EXPECT_EQ(stack.retired_because(), "");
    ExpectAnswer(stack, 1);
    ASSERT_TRUE(stack.Load(3).ok());
    ExpectAnswer(stack, 3);
  }
}

TEST_F(InPlaceTest, WhatDoesNotProveItselfIsTakenBack) {
  for (const SwapMode swap : {SwapMode::kInPlace, SwapMode::kBeside}) {
    for (const std::vector<c10::Device>& devices :
         {both_, std::vector<c10::Device>{c10::Device(c10::kCPU)}}) {
      ServingStack stack(devices, Config(swap));
      ASSERT_TRUE(stack.Load(1).ok());
      const TempDir dir;
      stack.SetGolden({WriteSample(dir.Path("one.safetensors"), stack.live()->signature, 1)});
      ASSERT_TRUE(stack.Load(1).ok());
      const absl::Status refused = stack.Load(2);
      EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
      EXPECT_EQ(std::string(refused.message()),
                "golden sample 'one.safetensors': output 'output', element [0, 0]: expected 32, "
                "got 64, tolerance 0.0321");
      EXPECT_EQ(stack.steps().back(), VersionState::kWarmed);
      EXPECT_EQ(stack.retired_because(), "");
      ExpectAnswer(stack, 1);
    }
  }
}

// Whatever step fails, either what answered before answers as before, or the model is out of
// service with the reason; and a load that follows makes it good.
TEST_F(InPlaceTest, MemoryThatRunsOutAtAnyStepCostsNoAnswer) {
  ServingStack stack(both_, Config(SwapMode::kInPlace));
  ASSERT_TRUE(stack.Load(1).ok());
  ASSERT_TRUE(stack.Load(2).ok());
  int64_t number = 2;
  for (int64_t n = 1; n <= 40; ++n) {
    if (n % 2 == 0) {
      simdevice::FailAllocation(sim0_, n / 2);
    } else {
      simdevice::FailPinnedAllocation((n + 1) / 2);
    }
    const absl::Status loaded = stack.Load(number + 1);
    simdevice::Reset();
    if (loaded.ok()) {
      ++number;
    } else {
      EXPECT_TRUE(absl::IsResourceExhausted(loaded)) << n << ": " << loaded;
    }
    ASSERT_EQ(stack.retired_because(), "") << n << ": " << loaded;
    ExpectAnswer(stack, number);
  }
}

TEST_F(InPlaceTest, ADeviceThatBreaksAtAnyStepIsTakenOutLoudly) {
  int64_t failed = 0;
  bool done = false;
  for (int64_t n = 1; !done && n < 200; ++n) {
    {
      ServingStack stack(both_, Config(SwapMode::kInPlace));
      ASSERT_TRUE(stack.Load(1).ok());
      simdevice::FailKernel(sim1_, n);
      const absl::Status loaded = stack.Load(2);
      done = !stack.health().LostBecause("sim:1").has_value();
      if (!loaded.ok()) {
        ++failed;
        EXPECT_TRUE(absl::IsUnavailable(loaded)) << n << ": " << loaded;
        // sim:0 can be brought back, or the model says that it cannot.
        if (stack.retired_because().empty()) ExpectAnswer(stack, 1);
      }
      simdevice::Reset();
    }
  }
  EXPECT_TRUE(done);
  EXPECT_GT(failed, 2);
}

}  // namespace
}  // namespace sconce
