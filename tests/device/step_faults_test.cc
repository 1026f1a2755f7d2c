// That memory that runs out, or a device that breaks, at any step of a load or of a batch costs
// what it must and no more.
#include <cstdint>
#include <functional>
#include <future>
#include <string>
#include <vector>

#include "tests/device/serving_stack.h"
#include "tests/device/sim_test.h"

namespace sconce {
namespace {

using simdevice::StatisticsOf;
using testing::HasSubstr;

class StepFaults : public SimTest {
 protected:
  static int64_t Allocations(c10::Device device) { return StatisticsOf(device).allocations; }
  static int64_t Work(c10::Device device) {
    const simdevice::Statistics statistics = StatisticsOf(device);
    return statistics.kernels + statistics.copies;
  }

  // How far `count` rises while `body` runs.
  static int64_t Steps(const std::function<int64_t()>& count, const std::function<void()>& body) {
    const int64_t before = count();
    body();
    return count() - before;
  }

  // Full batches, one on each device, both of which are to be answered.
  void AskOnEachDevice(ServingStack& stack) {
    const int64_t before[] = {Work(sim0_), Work(sim1_)};
    const auto busy = [&] { return (Work(sim0_) > before[0]) + (Work(sim1_) > before[1]); };
    for (const c10::Device device : both_) simdevice::Hold(device);
    std::vector<std::future<ServingStack::Answer>> answers;
    for (int devices = 1; devices <= 2; ++devices) {
      answers.push_back(stack.Ask({1, 2, 3, 4}));
      EXPECT_TRUE(WaitUntil([&] { return busy() == devices; }));
    }
    for (const c10::Device device : both_) simdevice::Release(device);
    for (auto& future : answers) {
      const ServingStack::Answer answer = future.get();
      EXPECT_TRUE(answer.status.ok()) << answer.status;
      EXPECT_EQ(answer.wrong, "");
    }
  }

  // A right answer, from version `number` unless 0.
  static void ExpectAnswer(ServingStack& stack, int64_t number) {
    const ServingStack::Answer answer = stack.Ask({1, 2}).get();
    EXPECT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(answer.wrong, "");
    if (number != 0) {
      EXPECT_EQ(answer.version, number);
    }
  }

  // Loads versions, of which the n-th step runs out of memory, for each n; how many of the loads
  // fail for it.
  void OutOfMemoryAtEachStepOfALoad(const std::function<int64_t()>& count,
                                    const std::function<void(int64_t)>& fail_step,
                                    int64_t* refused) {
    ServingStack stack(both_);
    int64_t number = 1;
    ASSERT_TRUE(stack.Load(number).ok());
    ASSERT_TRUE(stack.Load(++number).ok());  // the first one may set up what stays
    const int64_t steps = Steps(count, [&] { ASSERT_TRUE(stack.Load(++number).ok()); });
    ASSERT_GT(steps, 4);
    ASSERT_TRUE(stack.AwaitOneVersion());
    const std::vector<int64_t> before = MemoryInUse();
    for (int64_t n = 1; n <= steps; ++n) {
      fail_step(n);
      const absl::Status loaded = stack.Load(number + 1);
      simdevice::Reset();
      if (loaded.ok()) {
        // It does without what there was no memory for: graphs, larger batches.
        ExpectAnswer(stack, ++number);
        ASSERT_TRUE(stack.Load(++number).ok());
        ASSERT_TRUE(stack.AwaitOneVersion());
      } else {
        ++*refused;
        EXPECT_TRUE(absl::IsResourceExhausted(loaded)) << n << ": " << loaded;
        ExpectAnswer(stack, number);
      }
      EXPECT_EQ(MemoryInUse(), before) << n << " of " << steps;
    }
    ASSERT_TRUE(stack.Load(++number).ok());
    ExpectAnswer(stack, number);
  }

  const std::vector<c10::Device> both_ = {sim0_, sim1_};
};

TEST_F(StepFaults, DeviceMemoryMayRunOutAtAnyAllocationOfALoad) {
  for (const c10::Device device : both_) {
    int64_t refused = 0;
    OutOfMemoryAtEachStepOfALoad([=] { return Allocations(device); },
                                 [=](int64_t n) { simdevice::FailAllocation(device, n); },
                                 &refused);
    EXPECT_GT(refused, 0);
  }
}

TEST_F(StepFaults, PinnedMemoryMayRunOutAtAnyAllocationOfALoad) {
  int64_t refused = 0;
  OutOfMemoryAtEachStepOfALoad(&simdevice::PinnedAllocations, &simdevice::FailPinnedAllocation,
                               &refused);
}

TEST_F(StepFaults, ADeviceMayBreakAtAnyStepOfALoad) {
  const std::vector<int64_t> before = MemoryInUse();
  int64_t steps = 0;
  {
    ServingStack stack(both_);
    ASSERT_TRUE(stack.Load(1).ok());
    steps = Steps([this] { return Work(sim1_); }, [&] { ASSERT_TRUE(stack.Load(2).ok()); });
  }
  ASSERT_GT(steps, 4);
  for (int64_t n = 1; n <= steps; ++n) {
    {
      ServingStack stack(both_);
      ASSERT_TRUE(stack.Load(1).ok());
      simdevice::FailKernel(sim1_, n);
      const absl::Status loaded = stack.Load(2);
      // Whatever became of the load, nobody is left without an answer.
      ExpectAnswer(stack, loaded.ok() ? 2 : 1);
      ExpectAnswer(stack, loaded.ok() ? 2 : 1);
      const auto reason = stack.health().LostBecause("sim:1");
      ASSERT_TRUE(reason.has_value()) << n << " of " << steps << ": " << loaded;
      EXPECT_THAT(*reason, HasSubstr("illegal memory access"));
      EXPECT_FALSE(stack.health().LostBecause("sim:0").has_value());
      // What comes next goes where it can.
      const absl::Status next = stack.Load(3);
      EXPECT_TRUE(next.ok()) << n << " of " << steps << ": " << next;
      ExpectAnswer(stack, 3);
    }
    simdevice::Reset();
    EXPECT_EQ(MemoryInUse(), before) << n << " of " << steps;
  }
}

TEST_F(StepFaults, DeviceMemoryMayRunOutAtAnyAllocationOfABatch) {
  ServingStack stack({sim0_});
  ASSERT_TRUE(stack.Load(1).ok());
  ExpectAnswer(stack, 1);
  const std::vector<int64_t> before = MemoryInUse();
  const int64_t steps =
      Steps([this] { return Allocations(sim0_); }, [&] { ExpectAnswer(stack, 1); });
  for (int64_t n = 1; n <= steps; ++n) {
    simdevice::FailAllocation(sim0_, n);
    const ServingStack::Answer answer = stack.Ask({1, 2}).get();
    EXPECT_TRUE(answer.status.ok() || absl::IsResourceExhausted(answer.status)) << answer.status;
    EXPECT_EQ(answer.wrong, "");
    simdevice::Reset();
    ExpectAnswer(stack, 1);
    EXPECT_EQ(MemoryInUse(), before) << n << " of " << steps;
  }
}

TEST_F(StepFaults, ADeviceMayBreakAtAnyStepOfABatch) {
  const std::vector<int64_t> before = MemoryInUse();
  int64_t steps = 0;
  for (int64_t n = 1; n == 1 || n <= steps; ++n) {
    {
      ServingStack stack(both_);
      ASSERT_TRUE(stack.Load(1).ok());
      steps = Steps([this] { return Work(sim0_); }, [&] { AskOnEachDevice(stack); });
      ASSERT_GT(steps, 2);
      simdevice::FailKernel(sim0_, n);
      AskOnEachDevice(stack);
      EXPECT_TRUE(stack.health().LostBecause("sim:0").has_value()) << n << " of " << steps;
      ExpectAnswer(stack, 1);
      simdevice::FailKernel(sim1_, 1);
      const ServingStack::Answer last = stack.Ask({1}).get();
      EXPECT_TRUE(absl::IsUnavailable(last.status)) << last.status;
    }
    simdevice::Reset();
    EXPECT_EQ(MemoryInUse(), before) << n << " of " << steps;
  }
}

}  // namespace
}  // namespace sconce
