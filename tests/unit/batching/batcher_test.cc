#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>

#include "tests/unit/batching/batcher_fixture.h"

namespace sconce {
namespace {

TEST_F(BatcherTest, AnswersARequestWithItsRows) {
  Publish(1, {.scale = 2, .bias = 1});
  const Answer answer = Submit(Request(3, 5)).get();
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->version->number, 1);
  EXPECT_EQ(answer->outputs[0].shape, (std::vector<int64_t>{3, 2}));
  EXPECT_EQ(Values(*answer), std::vector<float>(6, 11));
}

TEST_F(BatcherTest, RequestsThatWaitShareABatchAndGetTheirOwnRows) {
  Gate gate;
  std::vector<int64_t> batch_rows;
  Publish(1, {.scale = 10, .on_run = [&](int64_t rows) {
                batch_rows.push_back(rows);
                gate.Pass();
                return absl::OkStatus();
              }});
  gate.Close();
  auto first = Submit(Request(1, 1));
  gate.AwaitHeld();
  std::vector<std::future<Answer>> waiting;
  for (int i = 2; i <= 4; ++i) waiting.push_back(Submit(Request(i, i)));
  gate.Open();
  EXPECT_EQ(Values(*first.get()), std::vector<float>(2, 10));
  for (int i = 2; i <= 4; ++i) {
    const Answer answer = waiting[i - 2].get();
    EXPECT_EQ(Values(*answer), std::vector<float>(i * 2, i * 10.f));
  }
  EXPECT_EQ(batch_rows, (std::vector<int64_t>{1, 9}));
  const StatisticsSnapshot counts = registry_.Find("m")->statistics().Snapshot();
  EXPECT_EQ(counts.success.count, 4u);
  EXPECT_EQ(counts.execution_count, 2u);
  EXPECT_EQ(counts.inference_count, 10u);
}

TEST_F(BatcherTest, ABatchBegunOnOneVersionEndsOnIt) {
  Gate gate;
  gate.Close();
  Publish(1, {.bias = 1, .on_run = [&](int64_t) {
                gate.Pass();
                return absl::OkStatus();
              }});
  auto before = Submit(Request(1, 0));
  gate.AwaitHeld();
  Publish(2, {.bias = 2});
  auto after = Submit(Request(1, 0));
  gate.Open();
  const Answer first = before.get(), second = after.get();
  EXPECT_EQ(first->version->number, 1);
  EXPECT_EQ(Values(*first), std::vector<float>(2, 1));
  EXPECT_EQ(second->version->number, 2);
  EXPECT_EQ(Values(*second), std::vector<float>(2, 2));
}

TEST_F(BatcherTest, AFullQueueRefusesAtOnce) {
  Gate gate;
  gate.Close();
  auto version = MakeFakeVersion("m", 1, {.on_run = [&](int64_t) {
                                   gate.Pass();
                                   return absl::OkStatus();
                                 }});
  version->config.max_queue_size = 2;
  Publish(std::move(version));
  auto running = Submit(Request(1, 0));
  gate.AwaitHeld();
  auto a = Submit(Request(1, 0)), b = Submit(Request(1, 0)), c = Submit(Request(1, 0));
  const Answer refused = c.get();
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(refused.status().message().find("queue is full"), std::string::npos);
  gate.Open();
  EXPECT_TRUE(running.get().ok());
  EXPECT_TRUE(a.get().ok());
  EXPECT_TRUE(b.get().ok());
}

TEST_F(BatcherTest, CancelledAndLateRequestsNeverReachTheNetwork) {
  Gate gate;
  gate.Close();
  std::atomic<int64_t> rows_run{0};
  Publish(1, {.on_run = [&](int64_t rows) {
            rows_run += rows;
            gate.Pass();
            return absl::OkStatus();
          }});
  auto running = Submit(Request(1, 0));
  gate.AwaitHeld();
  InferRequest cancelled = Request(10, 0);
  cancelled.cancelled = std::make_shared<std::atomic<bool>>(false);
  const auto flag = cancelled.cancelled;
  auto cancelled_answer = Submit(std::move(cancelled));
  InferRequest late = Request(10, 0);
  late.deadline = Clock::Real()->Now();
  auto late_answer = Submit(std::move(late));
  *flag = true;
  gate.Open();
  EXPECT_EQ(cancelled_answer.get().status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(late_answer.get().status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(running.get().ok());
  EXPECT_EQ(rows_run, 1);
  EXPECT_EQ(registry_.Find("m")->statistics().Snapshot().fail.count, 2u);
}

TEST_F(BatcherTest, AFailedRunFailsItsBatchAloneAndNamesTheVersion) {
  std::atomic<bool> fail{true};
  Publish(1, {.on_run = [&](int64_t) {
            return fail ? absl::InternalError("the network threw") : absl::OkStatus();
          }});
  const Answer failed = Submit(Request(1, 0)).get();
  EXPECT_EQ(failed.status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(failed.status().message(), "m/1: the network threw");
  fail = false;
  EXPECT_TRUE(Submit(Request(1, 0)).get().ok());
}

TEST_F(BatcherTest, ARequestForAVersionThatIsGoneIsNotAnsweredByAnother) {
  Gate gate;
  gate.Close();
  Publish(1, {.on_run = [&](int64_t) {
            gate.Pass();
            return absl::OkStatus();
          }});
  auto running = Submit(Request(1, 0));
  gate.AwaitHeld();
  InferRequest wants_first = Request(1, 0);
  wants_first.wanted_version = 1;
  auto answer = Submit(std::move(wants_first));
  Publish(2, {});
  gate.Open();
  EXPECT_EQ(answer.get().status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(running.get().ok());
}

TEST_F(BatcherTest, ARequestIsCheckedAgainWhereTheSignatureChanged) {
  Gate gate;
  gate.Close();
  Publish(1, {.on_run = [&](int64_t) {
            gate.Pass();
            return absl::OkStatus();
          }});
  auto running = Submit(Request(1, 0));
  gate.AwaitHeld();
  auto stale = Submit(Request(1, 0));
  Publish(MakeFakeVersion("m", 2, {}, {3}));
  gate.Open();
  const Answer answer = stale.get();
  EXPECT_EQ(answer.status().message(), "m/2: input 'x' expects FP32[-1,3], got FP32[1,2]");
  EXPECT_TRUE(running.get().ok());
}

TEST_F(BatcherTest, ARequestWithAWrongTargetFailsAloneBeforeItIsRun) {
  Gate gate;
  gate.Close();
  std::atomic<int64_t> rows_run{0};
  std::atomic<size_t> targets{0};
  Publish(1, {.on_run =
                  [&](int64_t rows) {
                    rows_run += rows;
                    gate.Pass();
                    return absl::OkStatus();
                  },
              .on_launch = [&](const BatchInput& batch) { targets += batch.to_device.size(); }});
  auto running = Submit(Request(1, 0));
  gate.AwaitHeld();
  InferRequest right = Request(1, 0), wrong = Request(1, 0);
  right.output_targets["y"] = {"sim:0", nullptr, 8};
  wrong.output_targets["nothing"] = {"sim:0", nullptr, 8};
  auto right_answer = Submit(std::move(right)), wrong_answer = Submit(std::move(wrong));
  gate.Open();
  EXPECT_TRUE(running.get().ok());
  EXPECT_TRUE(right_answer.get().ok());
  EXPECT_EQ(wrong_answer.get().status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(rows_run, 2);
  EXPECT_EQ(targets, 1u);
}

TEST_F(BatcherTest, RemovalAnswersWhatWaitsAndLetsTheBatchEnd) {
  Gate gate;
  gate.Close();
  Publish(1, {.on_run = [&](int64_t) {
            gate.Pass();
            return absl::OkStatus();
          }});
  auto running = Submit(Request(1, 0));
  gate.AwaitHeld();
  auto waiting = Submit(Request(1, 0));
  std::thread remover([&] { registry_.Remove("m"); });
  EXPECT_EQ(waiting.get().status().code(), absl::StatusCode::kUnavailable);
  gate.Open();
  remover.join();
  EXPECT_TRUE(running.get().ok());
}

TEST_F(BatcherTest, ARetiredModelAnswersUnavailableAndAnIdleExecutorKeepsNoVersion) {
  Publish(1, {});
  InferRequest request = Request(1, 0);
  EXPECT_TRUE(Submit(Request(1, 0)).get().ok());
  registry_.Retire(registry_.Find("m"));
  EXPECT_EQ(Submit(std::move(request)).get().status().code(), absl::StatusCode::kUnavailable);
  while (reaper_.reaped() < 1) std::this_thread::yield();
}

TEST_F(BatcherTest, AnIdleExecutorLetsTheVersionBeforeGo) {
  Publish(1, {});
  EXPECT_TRUE(Submit(Request(1, 0)).get().ok());
  Publish(2, {});
  while (reaper_.reaped() < 1) std::this_thread::yield();
}

TEST_F(BatcherTest, EveryReplicaRunsBatchesOfItsOwn) {
  Gate gate;
  gate.Close();
  std::atomic<int> running{0};
  Publish(1,
          {.on_run =
               [&](int64_t) {
                 ++running;
                 gate.Pass();
                 return absl::OkStatus();
               }},
          2);
  auto a = Submit(Request(1, 0));
  gate.AwaitHeld();
  auto b = Submit(Request(1, 0));
  while (running < 2) std::this_thread::yield();
  // A version with fewer replicas: the executor too many rests, the other answers.
  Publish(2, {}, 1);
  gate.Open();
  EXPECT_TRUE(a.get().ok());
  EXPECT_TRUE(b.get().ok());
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Submit(Request(1, 0)).get()->version->number, 2);
}

// The promise of the whole server, without torch: while versions change as fast as they can, every
// request is answered, by one version, with that version's values in every row.
TEST_F(BatcherTest, SwapsUnderLoadLoseAndMixNothing) {
  SwapUnderLoad(300, [this](int64_t number) {
    const size_t replicas = number == 1 ? 2 : 1 + number % 3;
    Publish(number, {.scale = 0, .bias = static_cast<float>(number)}, replicas);
  });
}

}  // namespace
}  // namespace sconce
