// What a replica has proven, and what is there for it, once it was warmed up.
#include "server/loader/warm_up.h"

#include <ATen/Context.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/device/replica_fixture.h"
#include "tests/support/simdevice/accelerator.h"

namespace sconce {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Signature OfRows(std::vector<int64_t> in, std::vector<int64_t> out) {
  Signature signature;
  signature.inputs = {{"x", DType::kFloat32, std::move(in)}};
  signature.outputs = {{"y", DType::kFloat32, std::move(out)}};
  return signature;
}

class WarmUpTest : public SimTest {
 protected:
  // y = x + 1; notes the rows of each run.
  std::unique_ptr<TorchReplica> Recorder(c10::Device device, const ExecutionOptions& options = {}) {
    return std::make_unique<TorchReplica>(MakeFunction({8},
                                                       [this](const at::Tensor& x) {
                                                         rows_.push_back(x.size(0));
                                                         measured_ &=
                                                             at::globalContext().benchmarkCuDNN();
                                                         return x.add(1);
                                                       }),
                                          device, options, &health_);
  }

  const Signature signature_ = OfRows({8}, {8});
  DeviceHealth health_;
  std::vector<int64_t> rows_;
  bool measured_ = true;
};

TEST_F(WarmUpTest, EveryBucketIsRunAndReplayed) {
  ExecutionOptions options;
  options.graphs = false;
  const auto eager = Recorder(sim0_, options);
  const auto notes = WarmUp(*eager, signature_, signature_, 6);
  ASSERT_TRUE(notes.ok()) << notes.status();
  EXPECT_THAT(*notes, HasSubstr("without graphs: the configuration says so"));
  EXPECT_THAT(rows_, ElementsAre(1, 1, 2, 2, 4, 4, 6, 6)) << "two batches at a time";
  EXPECT_TRUE(measured_);
  EXPECT_FALSE(at::globalContext().benchmarkCuDNN());
  EXPECT_EQ(eager->max_rows(), 6);

  const auto replica = Recorder(sim0_);
  const int64_t replays = simdevice::GraphReplays(sim0_);
  EXPECT_EQ(WarmUp(*replica, signature_, signature_, 6).value(), "");
  EXPECT_EQ(simdevice::GraphReplays(sim0_), replays + 8);
  EXPECT_EQ(replica->eager_because(), "");
}

TEST_F(WarmUpTest, TheFirstRealBatchesAllocateNoPinnedMemory) {
  const auto replica = Recorder(sim0_);
  ASSERT_TRUE(WarmUp(*replica, signature_, signature_, 6).ok());
  const int64_t allocations = simdevice::PinnedAllocations();
  for (int64_t rows = 1; rows <= 6; ++rows) {
    const auto a = Launched(*replica, {rows, 8}, 1);
    const auto b = Launched(*replica, {rows, 8}, 2);
    const HostTensor next = Staged(*replica, {rows, 8}, 3);
    Finished(*a);
    Finished(*b);
  }
  EXPECT_EQ(simdevice::PinnedAllocations(), allocations);
}

TEST_F(WarmUpTest, TheLargestBatchIsTheOneThatFits) {
  constexpr int64_t kRow = 1 << 16;
  const Signature signature = OfRows({kRow / 4}, {kRow / 4});
  ExecutionOptions options;
  options.graphs = false;
  TorchReplica replica(MakeFunction({kRow / 4}, [](const at::Tensor& x) { return x.add(1); }),
                       sim0_, options, nullptr);
  const simdevice::Statistics before = simdevice::StatisticsOf(sim0_);
  // Two batches under way, each an input and an output.
  simdevice::LimitMemory(sim0_, before.live_bytes + 6 * 4 * kRow);
  const auto notes = WarmUp(replica, signature, signature, 64);
  ASSERT_TRUE(notes.ok()) << notes.status();
  EXPECT_GE(replica.max_rows(), 4);
  EXPECT_LT(replica.max_rows(), 64);
  EXPECT_THAT(*notes, HasSubstr("sim:0 has memory for batches of "));
  EXPECT_GT(simdevice::StatisticsOf(sim0_).emptied_caches, before.emptied_caches);
  EXPECT_EQ(simdevice::StatisticsOf(sim0_).live_bytes, before.live_bytes);
  EXPECT_TRUE(replica.Run({{Staged(replica, {replica.max_rows(), kRow / 4}, 1)}, {}, {}}).ok());
}

TEST_F(WarmUpTest, WithoutMemoryForOneRowThereIsNoReplica) {
  const auto replica = Recorder(sim0_);
  simdevice::LimitMemory(sim0_, simdevice::StatisticsOf(sim0_).live_bytes);
  const absl::Status status = WarmUp(*replica, signature_, signature_, 6).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

TEST_F(WarmUpTest, AFaultIsTheDevicesAndNotTheFiles) {
  const auto replica = Recorder(sim0_);
  simdevice::FailKernel(sim0_, 3);
  const absl::Status status = WarmUp(*replica, signature_, signature_, 6).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_TRUE(health_.LostBecause("sim:0").has_value());
}

TEST_F(WarmUpTest, ANetworkThatDoesNotRunOrGivesSomethingElseIsRefused) {
  for (const c10::Device device : {c10::Device(c10::kCPU), sim0_}) {
    TorchReplica throws(MakeFunction({8},
                                     [](const at::Tensor& x) {
                                       TORCH_CHECK(x.size(1) != 8, "no such size as ", x.size(1));
                                       return x;
                                     }),
                        device, {}, nullptr);
    const absl::Status thrown = WarmUp(throws, signature_, signature_, 6).status();
    EXPECT_TRUE(absl::IsInvalidArgument(thrown)) << thrown;
    EXPECT_THAT(std::string(thrown.message()),
                HasSubstr("the network does not run: " + device.str() + ": no such size as 8"));

    TorchReplica other(MakeFunction({8}, [](const at::Tensor& x) { return x.narrow(1, 0, 4); }),
                       device, {}, nullptr);
    const absl::Status refused = WarmUp(other, signature_, signature_, 6).status();
    EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  }
}

TEST_F(WarmUpTest, RowsThatAreNoMultipleOfTheBatchAreFound) {
  TorchReplica replica(
      MakeFunction({8}, [](const at::Tensor& x) { return x.narrow(0, 0, 1).clone(); }), sim0_, {},
      nullptr);
  EXPECT_TRUE(absl::IsInvalidArgument(WarmUp(replica, signature_, signature_, 6).status()));
}

TEST_F(WarmUpTest, OpenDimensionsAreRunAsTheArchitectureHasThemAndWithoutGraphs) {
  const auto replica = Recorder(sim0_);
  const Signature open = OfRows({-1}, {-1});
  const auto notes = WarmUp(*replica, open, signature_, 4);
  ASSERT_TRUE(notes.ok()) << notes.status();
  EXPECT_THAT(*notes, HasSubstr("without graphs: its inputs are not of one size"));
  EXPECT_THAT(rows_, ElementsAre(1, 1, 2, 2, 4, 4));
  EXPECT_TRUE(replica->Run({{Staged(*replica, {3, 5}, 1)}, {}, {}}).ok());
}

TEST_F(WarmUpTest, OnTheCpuEveryBucketIsRunAndOthersMayComputeBetween) {
  const auto replica = Recorder(c10::kCPU);
  std::vector<size_t> ran_before;
  CpuWarmUp first;
  first.between = [&] { ran_before.push_back(rows_.size()); };
  ASSERT_TRUE(WarmUp(*replica, signature_, signature_, 6, first).ok());
  EXPECT_THAT(rows_, ElementsAre(1, 2, 4, 6));
  EXPECT_THAT(ran_before, ElementsAre(1, 2, 3));
}

TEST_F(WarmUpTest, OnTheCpuOneRowOfAKnownNetworkIsEnoughUnlessTheLargestBatchIsCheap) {
  CpuWarmUp known;
  known.known = true;
  const auto cheap = Recorder(c10::kCPU);
  ASSERT_TRUE(WarmUp(*cheap, signature_, signature_, 6, known).ok());
  EXPECT_THAT(rows_, ElementsAre(1, 6));
  rows_.clear();
  TorchReplica slow(MakeFunction({8},
                                 [this](const at::Tensor& x) {
                                   rows_.push_back(x.size(0));
                                   std::this_thread::sleep_for(std::chrono::milliseconds(50));
                                   return x.add(1);
                                 }),
                    c10::kCPU, {}, nullptr);
  ASSERT_TRUE(WarmUp(slow, signature_, signature_, 6, known).ok());
  EXPECT_THAT(rows_, ElementsAre(1));
}

TEST_F(WarmUpTest, BatchesOfAnotherReplicaGoOnMeanwhile) {
  TorchReplica live(MakeNet(Mlp(), sim0_), sim0_, {}, nullptr);
  const std::string expected = Answer(live, {3, 8}, 1);
  std::atomic<bool> stop = false;
  std::atomic<int> wrong = 0, answers = 0;
  std::thread clients([&] {
    while (!stop) {
      wrong += Answer(live, {3, 8}, 1) == expected ? 0 : 1;
      ++answers;
    }
  });
  const Signature mlp = OfRows({8}, {4});
  for (int n = 0; n < 5; ++n) {
    TorchReplica next(MakeNet(Mlp(), sim0_), sim0_, {}, nullptr);
    const auto notes = WarmUp(next, mlp, mlp, 16);
    ASSERT_TRUE(notes.ok()) << notes.status();
    EXPECT_EQ(Answer(next, {2, 8}, 1).size(), 2u * 4 * 4);
  }
  stop = true;
  clients.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(answers, 0);
}

}  // namespace
}  // namespace sconce
