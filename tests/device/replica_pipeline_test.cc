// That batches overlap on a device, and that host memory is reused no earlier than it may be.
#include <ATen/ops/empty.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/device/replica_fixture.h"

namespace sconce {
namespace {

using simdevice::Hold;
using simdevice::IsBlocked;
using simdevice::Release;

class ReplicaPipeline : public SimTest {
 protected:
  ReplicaPipeline() : on_(MakeNet(Mlp(), sim0_), sim0_), replica_(*on_.replica) {
    TorchReplica cpu(MakeNet(Mlp(), c10::kCPU), c10::kCPU, {}, nullptr);
    for (int seed = 0; seed < 4; ++seed) expected_.push_back(Answer(cpu, kShape, seed));
  }

  // Runs `body` on a thread of its own and waits until the host waits for the device there.
  template <typename Body>
  std::thread AwaitingDevice(std::atomic<bool>* returned, Body body) {
    std::thread thread([returned, body] {
      body();
      *returned = true;
    });
    while (!*returned && !simdevice::IsHostWaiting(sim0_)) std::this_thread::yield();
    return thread;
  }

  StreamedReplica on_;
  TorchReplica& replica_;
  std::vector<std::string> expected_;  // by seed
};

TEST_F(ReplicaPipeline, TheNextBatchIsCopiedInWhileOneComputes) {
  EXPECT_EQ(replica_.depth(), 2);
  Hold(on_.compute);
  const auto a = Launched(replica_, kShape, 0);
  const auto b = Launched(replica_, kShape, 1);
  EXPECT_FALSE(IsBlocked(on_.copy_in)) << "both batches are copied in";
  EXPECT_TRUE(IsBlocked(on_.compute));
  Release(on_.compute);
  EXPECT_EQ(Finished(*a), expected_[0]);
  EXPECT_EQ(Finished(*b), expected_[1]);
}

TEST_F(ReplicaPipeline, ABatchFinishesWhileTheNextIsHeld) {
  const auto a = Launched(replica_, kShape, 0);
  ASSERT_FALSE(IsBlocked(on_.copy_in));
  Hold(on_.copy_in);
  const auto b = Launched(replica_, kShape, 1);
  EXPECT_EQ(Finished(*a), expected_[0]);
  EXPECT_TRUE(IsBlocked(on_.compute)) << "the next batch waits for its inputs";
  Release(on_.copy_in);
  EXPECT_EQ(Finished(*b), expected_[1]);
}

TEST_F(ReplicaPipeline, TheNextBatchComputesWhileAnswersAreCopiedOut) {
  Hold(on_.copy_out);
  const auto a = Launched(replica_, kShape, 0);
  const auto b = Launched(replica_, kShape, 1);
  EXPECT_FALSE(IsBlocked(on_.copy_in));
  EXPECT_FALSE(IsBlocked(on_.compute)) << "both batches are computed";
  EXPECT_TRUE(IsBlocked(on_.copy_out));
  Release(on_.copy_out);
  EXPECT_EQ(Finished(*a), expected_[0]);
  EXPECT_EQ(Finished(*b), expected_[1]);
}

TEST_F(ReplicaPipeline, BatchesMayBeFinishedInAnyOrder) {
  const auto a = Launched(replica_, kShape, 0);
  const auto b = Launched(replica_, kShape, 1);
  EXPECT_EQ(Finished(*b), expected_[1]);
  EXPECT_EQ(Finished(*a), expected_[0]);
}

TEST_F(ReplicaPipeline, ManyBatchesInFlightKeepTheirNumbers) {
  // Freed device memory is overwritten: what is not ordered by an event shows as NaN.
  std::unique_ptr<RunningBatch> before;
  for (int n = 0; n < 100; ++n) {
    auto next = Launched(replica_, kShape, n % 4);
    if (before != nullptr) {
      ASSERT_EQ(Finished(*before), expected_[(n - 1) % 4]) << n;
    }
    before = std::move(next);
  }
  EXPECT_EQ(Finished(*before), expected_[3]);
}

TEST_F(ReplicaPipeline, ABatchThatIsDroppedIsWaitedFor) {
  Hold(on_.copy_out);
  auto batch = Launched(replica_, kShape, 0);
  std::atomic<bool> returned = false;
  std::thread dropper = AwaitingDevice(&returned, [&] { batch.reset(); });
  EXPECT_FALSE(returned);
  Release(on_.copy_out);
  dropper.join();
}

TEST_F(ReplicaPipeline, StagingIsNotHandedOutBeforeTheDeviceHasReadIt) {
  Hold(on_.copy_in);
  std::vector<std::unique_ptr<RunningBatch>> batches;
  for (int seed = 0; seed < 3; ++seed) batches.push_back(Launched(replica_, kShape, seed));
  std::atomic<bool> returned = false;
  std::vector<HostTensor> staged;
  std::thread stager = AwaitingDevice(&returned, [&] {
    auto memory = replica_.Stage({3 * 8 * 4});
    ASSERT_TRUE(memory.ok()) << memory.status();
    staged = *std::move(memory);
    std::memset(staged[0].bytes.data(), 0x7f, staged[0].bytes.size());
  });
  EXPECT_FALSE(returned) << "every slot of the ring is still to be read";
  Release(on_.copy_in);
  stager.join();
  for (int seed = 0; seed < 3; ++seed) EXPECT_EQ(Finished(*batches[seed]), expected_[seed]);
}

TEST_F(ReplicaPipeline, StagingComesBackOnceNobodyHoldsIt) {
  auto first = replica_.Stage({100, 28});
  ASSERT_TRUE(first.ok());
  const std::byte* const memory = first->front().bytes.data();
  const HostTensor second_input = (*first)[1];
  first->clear();
  auto other = replica_.Stage({100});
  ASSERT_TRUE(other.ok());
  EXPECT_NE(other->front().bytes.data(), memory) << "one input of the batch is still held";
  other->clear();
  const int64_t allocations = simdevice::PinnedAllocations();
  for (int n = 0; n < 5; ++n) ASSERT_TRUE(replica_.Stage({64, 64}).ok());
  EXPECT_EQ(simdevice::PinnedAllocations(), allocations);
}

TEST_F(ReplicaPipeline, InputsThatTheCallerKeepsAreNotStagedOver) {
  const HostTensor kept = Staged(replica_, kShape, 0);
  EXPECT_EQ(Bytes(replica_.Run({{kept}, {}, {}})->front()), expected_[0]);
  EXPECT_EQ(Answer(replica_, kShape, 1), expected_[1]);
  EXPECT_EQ(Bytes(replica_.Run({{kept}, {}, {}})->front()), expected_[0]);
}

TEST_F(ReplicaPipeline, MemoryThatIsNotTheRingsIsKeptUntilTheBatchIsOver) {
  Hold(on_.copy_in);
  const at::Tensor values = at::empty(kShape, at::TensorOptions().pinned_memory(true));
  values.copy_(Drawn(kShape, 2));
  auto owner = std::make_shared<at::Tensor>(values);
  const std::weak_ptr<at::Tensor> watched = owner;
  BatchInput batch;
  batch.inputs.push_back({DType::kFloat32,
                          kShape,
                          {static_cast<std::byte*>(values.data_ptr()), values.nbytes()},
                          owner});
  owner.reset();
  auto running = replica_.Launch(std::move(batch));
  ASSERT_TRUE(running.ok()) << running.status();
  EXPECT_FALSE(watched.expired());
  Release(on_.copy_in);
  EXPECT_EQ(Finished(**running), expected_[2]);
  EXPECT_TRUE(watched.expired());
}

TEST_F(ReplicaPipeline, TheSteadyStateAllocatesNoPinnedMemory) {
  // Two batches under way and one being put together.
  const auto two_at_a_time = [&](int64_t rows) {
    std::vector<HostTensor> staged;
    for (int seed = 0; seed < 3; ++seed) staged.push_back(Staged(replica_, {rows, 8}, seed));
    const auto a = replica_.Launch({{std::move(staged[0])}, {}, {}});
    const auto b = replica_.Launch({{std::move(staged[1])}, {}, {}});
    ASSERT_TRUE(a.ok() && b.ok());
    Finished(**a);
    Finished(**b);
  };
  two_at_a_time(64);
  const int64_t allocations = simdevice::PinnedAllocations();
  for (int64_t rows = 1; rows <= 64; ++rows) two_at_a_time(rows);
  EXPECT_EQ(simdevice::PinnedAllocations(), allocations);
  two_at_a_time(4096);  // not known before
  EXPECT_GT(simdevice::PinnedAllocations(), allocations);
  const int64_t grown = simdevice::PinnedAllocations();
  two_at_a_time(4096);
  EXPECT_EQ(simdevice::PinnedAllocations(), grown);
}

TEST_F(ReplicaPipeline, AnswersOutliveTheReplica) {
  const int64_t pinned = simdevice::PinnedBytes();
  auto replica =
      std::make_unique<TorchReplica>(MakeNet(Mlp(), sim0_), sim0_, ExecutionOptions{}, nullptr);
  std::vector<HostTensor> kept;
  for (int seed = 0; seed < 3; ++seed) {
    kept.push_back(replica->Run({{Staged(*replica, kShape, seed)}, {}, {}})->front());
  }
  replica.reset();
  for (int seed = 0; seed < 3; ++seed) EXPECT_EQ(Bytes(kept[seed]), expected_[seed]);
  EXPECT_GT(simdevice::PinnedBytes(), pinned);
  kept.clear();
  EXPECT_EQ(simdevice::PinnedBytes(), pinned);
}

TEST_F(ReplicaPipeline, StagingMayOutliveTheReplica) {
  const int64_t pinned = simdevice::PinnedBytes();
  auto replica =
      std::make_unique<TorchReplica>(MakeNet(Mlp(), sim0_), sim0_, ExecutionOptions{}, nullptr);
  HostTensor staged = Staged(*replica, kShape, 0);
  ASSERT_TRUE(replica->Run({{staged}, {}, {}}).ok());
  replica.reset();
  std::memset(staged.bytes.data(), 0, staged.bytes.size());
  staged = {};
  EXPECT_EQ(simdevice::PinnedBytes(), pinned);
}

TEST_F(ReplicaPipeline, SlowClientsMakeThePoolGrowAndShrinkAgain) {
  Answer(replica_, kShape, 0);
  const int64_t pinned = simdevice::PinnedBytes();
  std::vector<HostTensor> unsent;
  for (int n = 0; n < 40; ++n) {
    unsent.push_back(replica_.Run({{Staged(replica_, kShape, n % 4)}, {}, {}})->front());
  }
  for (int n = 0; n < 40; ++n) EXPECT_EQ(Bytes(unsent[n]), expected_[n % 4]);
  const int64_t most = simdevice::PinnedBytes();
  unsent.clear();
  EXPECT_LT(simdevice::PinnedBytes() - pinned, (most - pinned) / 2);
}

}  // namespace
}  // namespace sconce
