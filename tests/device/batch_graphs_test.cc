// That batches are replayed from graphs captured per bucket, with the answers they would have had
// without, and that whatever cannot be captured runs without.
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/device/replica_fixture.h"
#include "tests/support/simdevice/accelerator.h"

namespace sconce {
namespace {

using simdevice::GraphReplays;
using testing::HasSubstr;

constexpr int64_t kMostRows = 6;  // buckets 1, 2, 4 and 6

class BatchGraphsTest : public SimTest {
 protected:
  static HostTensor Shape(std::vector<int64_t> shape) {
    HostTensor tensor;
    tensor.shape = std::move(shape);
    return tensor;
  }

  // Runs each bucket once before, as a warm-up does.
  static absl::Status Capture(TorchReplica& replica, int64_t outputs_per_row) {
    for (const int64_t rows : {1, 2, 4, 6}) Answer(replica, {rows, 8}, 0);
    return replica.CaptureGraphs({Shape({kMostRows, 8})}, {Shape({kMostRows, outputs_per_row})});
  }

  std::unique_ptr<TorchReplica> Captured(const ExecutionOptions& options = {}) {
    auto replica = std::make_unique<TorchReplica>(MakeNet(Mlp(), sim0_), sim0_, options, nullptr);
    const absl::Status status = Capture(*replica, 4);
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(replica->eager_because(), "");
    return replica;
  }

  int64_t Steps() const {
    const simdevice::Statistics statistics = simdevice::StatisticsOf(sim0_);
    return statistics.kernels + statistics.copies;
  }
};

TEST_F(BatchGraphsTest, EveryBatchUpToTheLargestIsReplayedAndAnsweredAsWithout) {
  TorchReplica eager(MakeNet(Mlp(), sim0_), sim0_, {}, nullptr);
  const auto replica = Captured();
  for (int64_t rows = 1; rows <= kMostRows; ++rows) {
    const int64_t replays = GraphReplays(sim0_);
    const auto outputs = replica->Run({{Staged(*replica, {rows, 8}, 1)}, {}, {}});
    ASSERT_TRUE(outputs.ok()) << outputs.status();
    EXPECT_EQ(GraphReplays(sim0_), replays + 1);
    const auto expected = eager.Run({{Staged(eager, {rows, 8}, 1)}, {}, {}});
    EXPECT_TRUE(ToTensor(outputs->front()).allclose(ToTensor(expected->front()), 1e-5, 1e-7))
        << rows;
    if (rows != 3 && rows != 5) {
      EXPECT_EQ(Bytes(outputs->front()), Bytes(expected->front())) << "not padded";
    }
  }
  const int64_t replays = GraphReplays(sim0_);
  EXPECT_EQ(Answer(*replica, {7, 8}, 1), Answer(eager, {7, 8}, 1));
  EXPECT_EQ(GraphReplays(sim0_), replays) << "larger than what was captured";
}

TEST_F(BatchGraphsTest, PaddingIsZeroWhateverWasThereBefore) {
  // The sum over the batch tells what the other rows hold.
  TorchReplica replica(
      MakeFunction({8}, [](const at::Tensor& x) { return x.add(x.sum({0}, /*keepdim=*/true)); }),
      sim0_, {}, nullptr);
  ASSERT_TRUE(Capture(replica, 8).ok());
  for (const int64_t rows : {6, 3, 4, 5, 1, 3}) {
    const auto outputs = replica.Run({{Staged(replica, {rows, 8}, 2)}, {}, {}});
    ASSERT_TRUE(outputs.ok()) << outputs.status();
    const at::Tensor x = Drawn({rows, 8}, 2);
    EXPECT_TRUE(ToTensor(outputs->front()).allclose(x.add(x.sum({0}, true)), 1e-5, 1e-6)) << rows;
  }
}

TEST_F(BatchGraphsTest, BatchesInFlightDoNotDisturbOneAnother) {
  const auto replica = Captured();
  std::vector<std::string> expected;
  for (int64_t rows = 1; rows <= kMostRows; ++rows) {
    expected.push_back(Answer(*replica, {rows, 8}, static_cast<int>(rows)));
  }
  std::unique_ptr<RunningBatch> before;
  for (int n = 0; n < 60; ++n) {
    const int rows = n * 5 % 6 + 1;
    auto next = Launched(*replica, {rows, 8}, rows);
    if (before != nullptr) {
      ASSERT_EQ(Finished(*before), expected[(n - 1) * 5 % 6]) << n;
    }
    before = std::move(next);
  }
}

TEST_F(BatchGraphsTest, ABatchMayBeReplayedWhileTheAnswersBeforeAreCopiedOut) {
  StreamedReplica on(MakeNet(Mlp(), sim0_), sim0_);
  ASSERT_TRUE(Capture(*on.replica, 4).ok());
  const std::string expected = Answer(*on.replica, {4, 8}, 1);
  simdevice::Hold(on.copy_out);
  const auto a = Launched(*on.replica, {4, 8}, 1);
  const auto b = Launched(*on.replica, {4, 8}, 2);
  EXPECT_FALSE(simdevice::IsBlocked(on.copy_in));
  EXPECT_FALSE(simdevice::IsBlocked(on.compute));
  simdevice::Release(on.copy_out);
  EXPECT_EQ(Finished(*a), expected);
  EXPECT_NE(Finished(*b), expected);
}

TEST_F(BatchGraphsTest, WhatCannotBeCapturedRunsWithout) {
  TorchReplica replica(MakeFunction({8},
                                    [](const at::Tensor& x) {
                                      // The host looks at a value, as control flow does.
                                      return x[0][0].item<float>() > 1e6 ? x : x.add(1);
                                    }),
                       sim0_, {}, nullptr);
  ASSERT_TRUE(Capture(replica, 8).ok());
  EXPECT_THAT(replica.eager_because(), HasSubstr("the network could not be captured: "));
  EXPECT_THAT(replica.eager_because(),
              HasSubstr("operation not permitted when stream is capturing"));
  EXPECT_EQ(replica.graph_bytes(), 0);
  const int64_t replays = GraphReplays(sim0_);
  const auto outputs = replica.Run({{Staged(replica, {3, 8}, 2)}, {}, {}});
  ASSERT_TRUE(outputs.ok()) << outputs.status();
  EXPECT_TRUE(ToTensor(outputs->front()).equal(Drawn({3, 8}, 2).add(1)));
  EXPECT_EQ(GraphReplays(sim0_), replays);
}

TEST_F(BatchGraphsTest, TheConfigurationSwitchesThemOff) {
  ExecutionOptions options;
  options.graphs = false;
  TorchReplica replica(MakeNet(Mlp(), sim0_), sim0_, options, nullptr);
  ASSERT_TRUE(Capture(replica, 4).ok());
  EXPECT_EQ(replica.eager_because(), "the configuration says so");
  const int64_t replays = GraphReplays(sim0_);
  Answer(replica, {2, 8}, 0);
  EXPECT_EQ(GraphReplays(sim0_), replays);
}

TEST_F(BatchGraphsTest, WithoutMemoryForThemBatchesGoOn) {
  TorchReplica replica(MakeNet(Mlp(), sim0_), sim0_, {}, nullptr);
  const std::string expected = Answer(replica, {6, 8}, 1);
  const simdevice::Statistics before = simdevice::StatisticsOf(sim0_);
  simdevice::LimitMemory(sim0_, before.live_bytes + 512);
  ASSERT_TRUE(replica.CaptureGraphs({Shape({kMostRows, 8})}, {Shape({kMostRows, 4})}).ok());
  EXPECT_THAT(replica.eager_because(), HasSubstr("out of memory"));
  const simdevice::Statistics after = simdevice::StatisticsOf(sim0_);
  EXPECT_EQ(after.live_bytes, before.live_bytes);
  EXPECT_EQ(after.emptied_caches, before.emptied_caches + 1) << "it is tried twice";
  simdevice::LimitMemory(sim0_, int64_t{1} << 30);
  EXPECT_EQ(Answer(replica, {6, 8}, 1), expected);
}

TEST_F(BatchGraphsTest, PrecisionAndFormatAreAsWithout) {
  const models::TensorSpec image{"x", at::kFloat, {3, 4, 4}};
  ExecutionOptions options;
  options.precision = Precision::kFp16;
  options.channels_last = true;
  const auto net = std::make_shared<FunctionNet>(
      models::Signature{{image}, {image}}, [](const std::vector<at::Tensor>& inputs) {
        TORCH_CHECK(inputs[0].is_contiguous(at::MemoryFormat::ChannelsLast) &&
                    inputs[0].scalar_type() == at::kHalf);
        return std::vector<at::Tensor>{inputs[0].mul(3)};
      });
  TorchReplica replica(net, sim0_, options, nullptr);
  const std::vector<int64_t> shape = {3, 3, 4, 4};
  const std::string expected = Answer(replica, shape, 1);
  ASSERT_TRUE(replica.CaptureGraphs({Shape({4, 3, 4, 4})}, {Shape({4, 3, 4, 4})}).ok());
  ASSERT_EQ(replica.eager_because(), "");
  EXPECT_EQ(Answer(replica, shape, 1), expected);
}

TEST_F(BatchGraphsTest, AFaultInAReplayIsTheDevices) {
  const auto net = MakeNet(Mlp(), sim0_);
  const auto run = [&](int64_t fails) {
    TorchReplica replica(net, sim0_, {}, nullptr);
    EXPECT_TRUE(Capture(replica, 4).ok());
    const int64_t before = Steps();
    if (fails > 0) simdevice::FailKernel(sim0_, fails);
    const auto outputs = replica.Run({{Staged(replica, {3, 8}, 1)}, {}, {}});
    EXPECT_EQ(outputs.ok(), fails == 0) << outputs.status();
    EXPECT_EQ(absl::IsUnavailable(outputs.status()), fails > 0) << outputs.status();
    return Steps() - before;
  };
  const int64_t count = run(0);
  ASSERT_GT(count, 4);
  const int64_t live = simdevice::StatisticsOf(sim0_).live_bytes;
  for (int64_t n = 1; n <= count; ++n) {
    run(n);
    simdevice::Reset();
    EXPECT_EQ(simdevice::StatisticsOf(sim0_).live_bytes, live);
  }
}

TEST_F(BatchGraphsTest, ALostDeviceIsNoReasonToRunWithout) {
  TorchReplica replica(MakeNet(Mlp(), sim0_), sim0_, {}, nullptr);
  simdevice::FailKernel(sim0_, 1);
  EXPECT_TRUE(
      absl::IsUnavailable(replica.CaptureGraphs({Shape({kMostRows, 8})}, {Shape({kMostRows, 4})})));
  EXPECT_TRUE(absl::IsUnavailable(replica.health()));
}

TEST_F(BatchGraphsTest, ANewVersionIsCapturedBesideTheOneThatServes) {
  const int64_t live = simdevice::StatisticsOf(sim0_).live_bytes;
  auto serving = Captured();
  EXPECT_GT(serving->graph_bytes(), 0);
  const std::string expected = Answer(*serving, {4, 8}, 1);
  std::atomic<bool> stop = false;
  std::atomic<int> wrong = 0;
  std::thread clients([&] {
    while (!stop) wrong += Answer(*serving, {4, 8}, 1) == expected ? 0 : 1;
  });
  for (int n = 0; n < 10; ++n) {
    const auto next = Captured();
    EXPECT_EQ(Answer(*next, {4, 8}, 1), expected);
  }
  stop = true;
  clients.join();
  EXPECT_EQ(wrong, 0);
  serving.reset();
  EXPECT_EQ(simdevice::StatisticsOf(sim0_).live_bytes, live);
}

}  // namespace
}  // namespace sconce
