// That the simulated accelerator captures graphs and opens shared memory as CUDA does, and catches
// what goes wrong with them.
#include <ATen/DeviceAccelerator.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>
#include <c10/core/Allocator.h>
#include <c10/core/StreamGuard.h>
#include <c10/util/Exception.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "server/device/accelerator.h"
#include "tests/device/sim_test.h"
#include "tests/support/simdevice/accelerator.h"

namespace sconce {
namespace {

using simdevice::StatisticsOf;
using testing::HasSubstr;

class SimGraphs : public SimTest {
 protected:
  at::TensorOptions OnSim() const { return at::TensorOptions().device(sim0_); }
  auto Capture(const std::function<void()>& body,
               const Accelerator::Graph* beside = nullptr) const {
    return accelerator_.Capture(sim0_, body, beside);
  }

  const Accelerator& accelerator_ = *FindAccelerator(c10::kPrivateUse1);
  const c10::StreamGuard on_stream_{simdevice::NewStream(sim0_)};
};

TEST_F(SimGraphs, AReplayDoesWhatWasCapturedOnTheSameMemory) {
  const at::Tensor x = at::full({4}, 1.f, OnSim());
  const at::Tensor y = at::full({4}, 0.f, OnSim());
  const int64_t before = StatisticsOf(sim0_).kernels;
  const auto graph = Capture([&] { y.copy_(x.add(1).mul(10)); });
  ASSERT_TRUE(graph.ok()) << graph.status();
  EXPECT_EQ(StatisticsOf(sim0_).kernels, before);
  EXPECT_EQ(First(y), 0);
  const int64_t replays = simdevice::GraphReplays(sim0_);
  for (const float value : {2.f, 3.f}) {
    x.fill_(value);
    (*graph)->Replay();
    EXPECT_EQ(First(y), (value + 1) * 10);
  }
  EXPECT_EQ(simdevice::GraphReplays(sim0_), replays + 2);
}

TEST_F(SimGraphs, PinnedMemoryIsReadWhenItIsReplayed) {
  const at::Tensor pinned = PinnedFloats(1);
  const at::Tensor x = at::full({64}, 0.f, OnSim());
  const auto graph = Capture([&] { x.copy_(pinned, /*non_blocking=*/true); });
  ASSERT_TRUE(graph.ok()) << graph.status();
  pinned.fill_(5);
  (*graph)->Replay();
  EXPECT_EQ(First(x), 5);
}

TEST_F(SimGraphs, WhatCannotBeCapturedIsRefusedAndTheStreamGoesOn) {
  const at::Tensor x = at::full({64}, 1.f, OnSim());
  EXPECT_THAT(Capture([&] { First(x); }).status().message(),
              HasSubstr("operation not permitted when stream is capturing"));
  EXPECT_THAT(Capture([&] { x.copy_(Floats(2), /*non_blocking=*/true); }).status().message(),
              HasSubstr("unless the CPU tensor is pinned"));
  EXPECT_THAT(Capture([&] { at::accelerator::synchronizeDevice(0); }).status().message(),
              HasSubstr("operation not permitted when stream is capturing"));
  EXPECT_FALSE(Capture([&] {
                 try {
                   First(x);
                 } catch (const c10::Error&) {
                 }
               }).ok())
      << "a capture does not survive an error, though nobody hears of it";
  EXPECT_EQ(First(x.add(1)), 2);
}

TEST_F(SimGraphs, OtherThreadsUseTheDeviceMeanwhile) {
  const at::Tensor x = at::full({4}, 1.f, OnSim());
  at::Tensor y;
  const auto graph = Capture([&] {
    std::thread([&] { EXPECT_EQ(First(Floats(7).to(sim0_).add(1)), 8); }).join();
    y = x.add(1);
  });
  ASSERT_TRUE(graph.ok()) << graph.status();
  (*graph)->Replay();
  EXPECT_EQ(First(y), 2);
}

TEST_F(SimGraphs, MemoryStaysUntilTheGraphIsGone) {
  constexpr int64_t kBytes = 64 << 10;
  const at::Tensor x = at::full({kBytes / 4}, 1.f, OnSim());
  const int64_t before = StatisticsOf(sim0_).live_bytes;
  at::Tensor y = x;
  auto graph = Capture([&] {
    for (int i = 0; i < 4; ++i) y = y.add(1);
  });
  ASSERT_TRUE(graph.ok()) << graph.status();
  // Two blocks take turns.
  EXPECT_EQ((*graph)->size_bytes(), 2 * kBytes);
  EXPECT_EQ(StatisticsOf(sim0_).live_bytes, before + 2 * kBytes);
  // Nobody else is given memory that a replay will write to.
  const at::Tensor other = at::full({kBytes / 4}, 9.f, OnSim());
  (*graph)->Replay();
  EXPECT_EQ(First(y), 5);
  EXPECT_EQ(First(other), 9);
  graph->reset();
  EXPECT_EQ(StatisticsOf(sim0_).live_bytes, before + 2 * kBytes);
  y.reset();
  EXPECT_EQ(StatisticsOf(sim0_).live_bytes, before + kBytes);
}

TEST_F(SimGraphs, GraphsBesideOneAnotherUseTheSameMemory) {
  const at::Tensor x = at::full({1024}, 1.f, OnSim());
  const at::Tensor y = at::full({1024}, 0.f, OnSim());
  const auto body = [&] { y.copy_(x.add(1).add(1)); };
  const int64_t before = StatisticsOf(sim0_).live_bytes;
  auto first = Capture(body);
  ASSERT_TRUE(first.ok()) << first.status();
  const int64_t one = StatisticsOf(sim0_).live_bytes;
  EXPECT_GT(one, before);
  auto second = Capture(body, first->get());
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(StatisticsOf(sim0_).live_bytes, one);
  EXPECT_EQ((*second)->size_bytes(), 0);
  first->reset();
  (*second)->Replay();
  EXPECT_EQ(First(y), 3);
  EXPECT_EQ(StatisticsOf(sim0_).live_bytes, one);
  second->reset();
  EXPECT_EQ(StatisticsOf(sim0_).live_bytes, before);
}

TEST_F(SimGraphs, OutOfMemoryInACaptureLeavesNothing) {
  const at::Tensor x = at::full({1024}, 1.f, OnSim());
  const int64_t before = StatisticsOf(sim0_).live_bytes;
  simdevice::FailAllocation(sim0_, 2);
  EXPECT_TRUE(absl::IsResourceExhausted(Capture([&] { x.add(1).add(1); }).status()));
  EXPECT_EQ(StatisticsOf(sim0_).live_bytes, before);
}

TEST_F(SimGraphs, MemoryThatIsGivenBackBeforeAReplayIsSeen) {
  // A graph keeps addresses, not tensors: weights must outlive it.
  at::Tensor weight = at::full({64}, 3.f, OnSim());
  const at::Tensor x = at::full({64}, 1.f, OnSim());
  at::Tensor y;
  const auto graph = Capture([&] { y = x.mul(weight); });
  ASSERT_TRUE(graph.ok()) << graph.status();
  weight.reset();
  (*graph)->Replay();
  EXPECT_TRUE(std::isnan(First(y)));
}

TEST_F(SimGraphs, AFaultMayComeAtAnyStepOfAReplay) {
  const at::Tensor x = at::full({64}, 1.f, OnSim());
  at::Tensor y;
  const auto graph = Capture([&] { y = x.add(1).add(1); });
  ASSERT_TRUE(graph.ok()) << graph.status();
  simdevice::FailKernel(sim0_, 2);
  (*graph)->Replay();
  EXPECT_THROW(on_stream_.current_stream().synchronize(), c10::AcceleratorError);
}

class SimSharedMemory : public SimTest {
 protected:
  static std::string BytesOf(float value, int count) {
    const std::vector<float> values(count, value);
    return std::string(reinterpret_cast<const char*>(values.data()), count * sizeof(float));
  }
  at::Tensor Opened(const DeviceBytes& bytes, int64_t count) const {
    return at::from_blob(bytes.address.get(), {count},
                         at::TensorOptions().device(sim0_).dtype(at::kFloat));
  }

  const Accelerator& accelerator_ = *FindAccelerator(c10::kPrivateUse1);
};

TEST_F(SimSharedMemory, IsReadAndWrittenByBoth) {
  const int64_t live = StatisticsOf(sim0_).live_bytes;
  const std::string handle = simdevice::Share(sim0_, 64);
  EXPECT_EQ(handle.size(), 64u);
  simdevice::WriteShared(handle, 0, BytesOf(2, 16));
  {
    const auto opened = accelerator_.OpenShared(sim0_, handle, 64);
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_EQ(opened->device, "sim:0");
    EXPECT_EQ(StatisticsOf(sim0_).live_bytes, live);
    const at::Tensor there = Opened(*opened, 16);
    EXPECT_EQ(First(there), 2);
    there.mul_(3);
    at::accelerator::synchronizeDevice(0);
  }
  EXPECT_EQ(simdevice::ReadShared(handle, 4, 8), BytesOf(6, 2));
  simdevice::Unshare(handle);
}

TEST_F(SimSharedMemory, StaysWhileItIsOpenAndTakesFromWhatThereIs) {
  simdevice::LimitMemory(sim0_, StatisticsOf(sim0_).live_bytes + (1 << 20));
  const std::string handle = simdevice::Share(sim0_, 1 << 19);
  simdevice::WriteShared(handle, 0, BytesOf(4, 1));
  auto opened = accelerator_.OpenShared(sim0_, handle, 1 << 19);
  ASSERT_TRUE(opened.ok());
  simdevice::Unshare(handle);
  EXPECT_FALSE(accelerator_.OpenShared(sim0_, handle, 1).ok());
  EXPECT_EQ(First(Opened(*opened, 1)), 4);
  const auto take = [this] { at::empty({3 << 18}, at::TensorOptions(sim0_).dtype(at::kByte)); };
  EXPECT_THROW(take(), c10::OutOfMemoryError);
  opened->address.reset();
  EXPECT_NO_THROW(take());
}

TEST_F(SimSharedMemory, AHandleThatIsNoneOrOfAnotherDeviceOrTooShortIsRefused) {
  const std::string handle = simdevice::Share(sim0_, 64);
  const auto refused = [&](c10::Device device, const std::string& text, int64_t size) {
    return absl::IsInvalidArgument(accelerator_.OpenShared(device, text, size).status());
  };
  EXPECT_TRUE(refused(sim0_, std::string(64, 'x'), 1));
  EXPECT_TRUE(refused(sim0_, handle.substr(0, 20), 1));
  EXPECT_TRUE(refused(sim1_, handle, 64));
  EXPECT_TRUE(refused(sim0_, handle, 65));
  EXPECT_FALSE(refused(sim0_, handle, 64));
  simdevice::Unshare(handle);
}

class SimAllocator : public SimTest {};

struct Tally : c10::MemoryReportingInfoBase {
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device device) override {
    if (device.is_privateuseone()) bytes += size;
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t bytes = 0;
};

TEST_F(SimAllocator, TellsTheProfilerWhatAThreadTakes) {
  const auto tally = std::make_shared<Tally>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, tally);
  at::Tensor x = at::empty({1000}, at::TensorOptions(sim0_));
  EXPECT_EQ(tally->bytes, 4096);
  std::thread([this] { at::empty({1000}, at::TensorOptions(sim0_)); }).join();
  EXPECT_EQ(tally->bytes, 4096);
  x.reset();
  EXPECT_EQ(tally->bytes, 0);
}

TEST_F(SimAllocator, CountsHowOftenItsCacheWasEmptied) {
  const int64_t before = StatisticsOf(sim0_).emptied_caches;
  at::accelerator::emptyCache();
  EXPECT_EQ(StatisticsOf(sim0_).emptied_caches, before + 1);
}

TEST_F(SimAllocator, IndicesMayLieOnTheHost) {
  const at::Tensor x = at::tensor({1.f, 2.f, 3.f}).to(sim0_);
  const at::Tensor indices = at::tensor({2, 0}, at::kLong);
  EXPECT_EQ(First(x.index({indices})), 3);
  x.index_put_({indices}, at::tensor({7.f, 8.f}).to(sim0_));
  EXPECT_EQ(First(x), 8);
  EXPECT_THROW(x.index_select(0, indices), c10::Error);
}

}  // namespace
}  // namespace sconce
