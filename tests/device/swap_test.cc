// That versions come and go on devices, under load and out of memory and on devices that break,
// without a byte lost, a request failed that need not, or an answer of two versions.
#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/device/serving_stack.h"
#include "tests/device/sim_test.h"

namespace sconce {
namespace {

using simdevice::StatisticsOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class SwapTest : public SimTest {
 protected:
  // A thousand swaps while clients ask; what is there of memory before and after.
  void SwapUnderLoad(ModelConfig config, const std::vector<c10::Device>& devices, int64_t last) {
    ServingStack stack(devices, std::move(config));
    ASSERT_TRUE(stack.Load(1).ok());
    ASSERT_TRUE(stack.Load(2).ok());
    stack.Ask({1, 2, 3}).get();
    stack.Clear();  // what the first loads set up for all that follow stays
    const std::vector<int64_t> before = MemoryInUse();

    ASSERT_TRUE(stack.Load(3).ok());
    Clients clients(&stack, 3);
    for (int64_t number = 4; number <= last; ++number) {
      const absl::Status loaded = stack.Load(number);
      ASSERT_TRUE(loaded.ok()) << number << ": " << loaded;
      ASSERT_TRUE(clients.AwaitVersion(number)) << number;
    }
    clients.Stop();
    EXPECT_THAT(clients.Problems(), IsEmpty());
    EXPECT_GE(clients.answers(), last - 3);
    stack.Clear();
    EXPECT_EQ(MemoryInUse(), before);
  }

  const std::vector<c10::Device> both_ = {sim0_, sim1_};
};

TEST_F(SwapTest, AThousandSwapsUnderLoadLoseNotAByteAndNoRequest) {
  SwapUnderLoad(ServingStack::SmallBatches(), both_, 1001);
}

TEST_F(SwapTest, AThousandSwapsInPlaceLoseNotAByteAndNoRequest) {
  ModelConfig config = ServingStack::SmallBatches();
  config.swap = SwapMode::kInPlace;
  SwapUnderLoad(config, both_, 1001);
}

TEST_F(SwapTest, SwapsOnTheCpuAndWithRetainedVersionsDoSoToo) {
  ModelConfig config = ServingStack::SmallBatches();
  config.retained_versions = 2;
  SwapUnderLoad(config, both_, 50);
  SwapUnderLoad(config, {c10::kCPU}, 200);
  config.swap = SwapMode::kInPlace;
  SwapUnderLoad(config, {c10::kCPU}, 200);
}

TEST_F(SwapTest, EveryStepIsToldInOrder) {
  ModelConfig config = ServingStack::SmallBatches();
  for (const SwapMode swap : {SwapMode::kBeside, SwapMode::kInPlace}) {
    config.swap = swap;
    ServingStack stack(both_, config);
    for (int64_t number = 1; number <= 2; ++number) {
      ASSERT_TRUE(stack.Load(number).ok());
      EXPECT_THAT(stack.steps(),
                  ElementsAre(VersionState::kStructureChecked, VersionState::kAdmitted,
                              VersionState::kRead, VersionState::kLoaded, VersionState::kPrepared,
                              VersionState::kWarmed, VersionState::kChecked));
    }
  }
}

TEST_F(SwapTest, GoingBackToARetainedVersionTakesNoMemory) {
  ModelConfig config = ServingStack::SmallBatches();
  config.retained_versions = 1;
  ServingStack stack(both_, config);
  ASSERT_TRUE(stack.Load(1).ok());
  ASSERT_TRUE(stack.Load(2).ok());
  const int64_t allocations = StatisticsOf(sim0_).allocations;
  for (const c10::Device device : both_) {
    simdevice::LimitMemory(device, StatisticsOf(device).live_bytes);
  }
  stack.RollBack();
  EXPECT_EQ(StatisticsOf(sim0_).allocations, allocations);
  simdevice::Reset();
  const ServingStack::Answer answer = stack.Ask({1, 2}).get();
  EXPECT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.version, 1);
  EXPECT_EQ(answer.wrong, "");
}

TEST_F(SwapTest, AVersionSharesWhatDidNotChange) {
  ModelConfig config = ServingStack::SmallBatches();
  config.retained_versions = 1;
  ServingStack stack(both_, config);
  ASSERT_TRUE(stack.Load(1).ok());
  EXPECT_EQ(stack.live()->shared_bytes, 0);
  ASSERT_TRUE(stack.Load(2).ok());
  const ModelVersion& version = *stack.live();
  EXPECT_GT(version.shared_bytes, 0);
  EXPECT_LT(version.shared_bytes, version.weights_bytes);
}

}  // namespace
}  // namespace sconce
