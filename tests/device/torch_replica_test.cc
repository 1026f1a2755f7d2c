// That a replica on a device gives the CPU's answers, and what it leaves behind when it cannot.
#include "server/device/execution/torch_replica.h"

#include <ATen/ops/from_blob.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/device/device_set.h"
#include "tests/device/replica_fixture.h"

namespace sconce {
namespace {

using testing::HasSubstr;

const ReplicaCase kMlp = Mlp();

class TorchReplicaTest : public SimTest {
 protected:
  static std::unique_ptr<TorchReplica> Make(const ReplicaCase& c, c10::Device device) {
    return std::make_unique<TorchReplica>(MakeNet(c, device), device, ExecutionOptions{}, nullptr);
  }
};

class TorchReplicaParity : public TorchReplicaTest,
                           public testing::WithParamInterface<ReplicaCase> {};

TEST_P(TorchReplicaParity, DevicesGiveTheAnswersOfTheCpuBitForBit) {
  const auto cpu = Make(GetParam(), c10::kCPU);
  const std::string expected = Answer(*cpu, GetParam().input, 7);
  for (const c10::Device device : {sim0_, sim1_}) {
    const auto replica = Make(GetParam(), device);
    EXPECT_EQ(replica->device(), device.str());
    EXPECT_TRUE(Answer(*replica, GetParam().input, 7) == expected) << device;
  }
}

INSTANTIATE_TEST_SUITE_P(
    , TorchReplicaParity,
    testing::Values(kMlp, ReplicaCase{"digits", {}, {5, 1, 8, 8}},
                    ReplicaCase{"resnet18", {{"num_classes", int64_t{10}}}, {2, 3, 64, 64}}),
    [](const auto& info) { return info.param.architecture; });

TEST_F(TorchReplicaTest, StagingIsPinnedWhereTheReplicaIsOnADevice) {
  const auto replica = Make(kMlp, sim0_);
  const auto staging = replica->Stage({1000});
  ASSERT_TRUE(staging.ok());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(staging->front().bytes.data()) % 64, 0u);
  EXPECT_TRUE(at::from_blob(staging->front().bytes.data(), {1000}, at::kByte).is_pinned());
  const auto on_cpu = Make(kMlp, c10::kCPU)->Stage({1000});
  ASSERT_TRUE(on_cpu.ok());
  EXPECT_FALSE(at::from_blob(on_cpu->front().bytes.data(), {1000}, at::kByte).is_pinned());
}

TEST_F(TorchReplicaTest, InputsMayBeOverwrittenOnceRunHasReturned) {
  const auto replica = Make(kMlp, sim0_);
  const HostTensor input = Staged(*replica, kMlp.input, 1);
  const auto first = replica->Run({{input}, {}, {}});
  ASSERT_TRUE(first.ok());
  const std::string answer = Bytes(first->front());
  const HostTensor other = Staged(*replica, kMlp.input, 2);
  std::memcpy(input.bytes.data(), other.bytes.data(), input.bytes.size());
  const auto second = replica->Run({{input}, {}, {}});
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(Bytes(first->front()), answer);
  EXPECT_NE(Bytes(second->front()), answer);
}

TEST_F(TorchReplicaTest, RunReturnsOnceTheAnswerIsThere) {
  const auto replica = Make(kMlp, sim0_);
  const std::string expected = Answer(*replica, kMlp.input, 1);
  simdevice::Hold(sim0_);
  std::atomic<bool> returned = false;
  std::string answer;
  std::thread runner([&] {
    answer = Answer(*replica, kMlp.input, 1);
    returned = true;
  });
  while (!returned && !simdevice::IsHostWaiting(sim0_)) std::this_thread::yield();
  EXPECT_FALSE(returned);
  simdevice::Release(sim0_);
  runner.join();
  EXPECT_EQ(answer, expected);
}

TEST_F(TorchReplicaTest, ReplicasOfOneNetRunAtTheSameTime) {
  const ReplicaCase resnet = {"resnet18", {{"num_classes", int64_t{10}}}, {1, 3, 64, 64}};
  const auto net = MakeNet(resnet, sim0_);
  std::vector<std::unique_ptr<TorchReplica>> replicas;
  for (int i = 0; i < 3; ++i)
    replicas.push_back(std::make_unique<TorchReplica>(net, sim0_, ExecutionOptions{}, nullptr));
  std::vector<std::string> expected;
  for (int i = 0; i < 3; ++i) expected.push_back(Answer(*replicas[0], resnet.input, i));
  std::vector<int> right(replicas.size(), 0);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < replicas.size(); ++i) {
    threads.emplace_back([&, i] {
      for (int n = 0; n < 6; ++n) {
        right[i] += Answer(*replicas[i], resnet.input, n % 3) == expected[n % 3] ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, std::vector<int>(replicas.size(), 6));
}

TEST_F(TorchReplicaTest, NothingIsLeftOfAReplicaThatIsGone) {
  const int64_t device_bytes = simdevice::StatisticsOf(sim0_).live_bytes;
  const int64_t pinned_bytes = simdevice::PinnedBytes();
  auto replica = Make(kMlp, sim0_);
  Answer(*replica, kMlp.input, 1);
  EXPECT_GT(simdevice::StatisticsOf(sim0_).live_bytes, device_bytes);
  replica.reset();
  EXPECT_EQ(simdevice::StatisticsOf(sim0_).live_bytes, device_bytes);
  EXPECT_EQ(simdevice::PinnedBytes(), pinned_bytes);
}

TEST_F(TorchReplicaTest, OutOfMemoryAtAnyAllocationFailsThatBatchAlone) {
  const auto replica = Make(kMlp, sim0_);
  const std::string expected = Answer(*replica, kMlp.input, 1);
  const HostTensor input = Staged(*replica, kMlp.input, 1);
  const int64_t live = simdevice::StatisticsOf(sim0_).live_bytes;
  const int64_t before = simdevice::StatisticsOf(sim0_).allocations;
  ASSERT_TRUE(replica->Run({{input}, {}, {}}).ok());
  const int64_t count = simdevice::StatisticsOf(sim0_).allocations - before;
  ASSERT_GT(count, 2);
  for (int64_t n = 1; n <= count; ++n) {
    simdevice::FailAllocation(sim0_, n);
    const auto outputs = replica->Run({{input}, {}, {}});
    EXPECT_TRUE(absl::IsResourceExhausted(outputs.status())) << outputs.status();
    EXPECT_THAT(std::string(outputs.status().message()), HasSubstr("sim:0: sim out of memory"));
    EXPECT_EQ(simdevice::StatisticsOf(sim0_).live_bytes, live);
    EXPECT_EQ(Answer(*replica, kMlp.input, 1), expected);
  }
}

TEST_F(TorchReplicaTest, PinnedMemoryThatRunsOutFailsThatBatchAlone) {
  const auto replica = Make(kMlp, sim0_);
  const std::string expected = Answer(*Make(kMlp, c10::kCPU), kMlp.input, 1);
  HostTensor input = Staged(*replica, kMlp.input, 1);
  simdevice::LimitPinnedMemory(simdevice::PinnedBytes());
  const auto outputs = replica->Run({{input}, {}, {}});
  EXPECT_TRUE(absl::IsResourceExhausted(outputs.status())) << outputs.status();
  const auto staging = replica->Stage({100});
  EXPECT_TRUE(absl::IsResourceExhausted(staging.status())) << staging.status();
  simdevice::LimitPinnedMemory(simdevice::PinnedBytes() + (1 << 20));
  EXPECT_TRUE(replica->health().ok()) << replica->health();
  EXPECT_EQ(Answer(*replica, kMlp.input, 1), expected);
}

TEST_F(TorchReplicaTest, PinnedMemoryIsAskedForAgainOnceTheReserveIsGivenBack) {
  const auto replica = Make(kMlp, sim0_);
  simdevice::FailPinnedAllocation(1);
  EXPECT_TRUE(replica->Stage({100}).ok());
}

TEST_F(TorchReplicaTest, AFaultAtAnyStepOfABatchIsReportedAndTheOtherDeviceGoesOn) {
  const auto net = MakeNet(kMlp, sim0_);
  const auto replica = std::make_unique<TorchReplica>(net, sim0_, ExecutionOptions{}, nullptr);
  const auto other = Make(kMlp, sim1_);
  const std::string expected = Answer(*replica, kMlp.input, 1);
  const HostTensor input = Staged(*replica, kMlp.input, 1);
  const auto steps = [&] {
    const simdevice::Statistics statistics = simdevice::StatisticsOf(sim0_);
    return statistics.kernels + statistics.copies;
  };
  const int64_t before = steps();
  ASSERT_TRUE(replica->Run({{input}, {}, {}}).ok());
  const int64_t count = steps() - before;
  ASSERT_GT(count, 4);
  for (int64_t n = 1; n <= count; ++n) {
    TorchReplica doomed(net, sim0_, {}, nullptr);
    simdevice::FailKernel(sim0_, n);
    const auto outputs = doomed.Run({{input}, {}, {}});
    EXPECT_TRUE(absl::IsUnavailable(outputs.status())) << outputs.status();
    EXPECT_THAT(std::string(outputs.status().message()), HasSubstr("sim:0: sim error: "));
    EXPECT_TRUE(absl::IsUnavailable(doomed.health())) << doomed.health();
    EXPECT_TRUE(absl::IsUnavailable(doomed.Run({{input}, {}, {}}).status()));
    EXPECT_EQ(Answer(*other, kMlp.input, 1), expected);
    simdevice::Reset();
  }
}

TEST_F(TorchReplicaTest, NothingIsUnderWayOnceAFailedRunHasReturned) {
  // Else the caller overwrites inputs, and frees weights, that queued work still reads.
  const auto replica = Make(kMlp, sim0_);
  const HostTensor input = Staged(*replica, kMlp.input, 1);
  ASSERT_TRUE(replica->Run({{input}, {}, {}}).ok());
  simdevice::Hold(sim0_);
  simdevice::FailAllocation(sim0_, 3);
  std::atomic<bool> returned = false;
  absl::Status status;
  std::thread runner([&] {
    status = replica->Run({{input}, {}, {}}).status();
    returned = true;
  });
  while (!returned && !simdevice::IsHostWaiting(sim0_)) std::this_thread::yield();
  EXPECT_FALSE(returned);
  simdevice::Release(sim0_);
  runner.join();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

TEST_F(TorchReplicaTest, MemoryOfADeviceIsItsLimitAndWhatIsInUse) {
  simdevice::LimitMemory(sim1_, int64_t{1} << 30);
  const auto before = MemoryOf(sim1_);
  ASSERT_TRUE(before.ok()) << before.status();
  EXPECT_EQ(before->total_bytes, int64_t{1} << 30);
  const at::Tensor x = Floats(1, 1024).to(sim1_);
  const auto after = MemoryOf(sim1_);
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ(after->used_bytes, before->used_bytes + 4096);
}

}  // namespace
}  // namespace sconce
