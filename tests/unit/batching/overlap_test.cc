// Batches that overlap on one device, and several devices behind one queue.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/fake_clock.h"
#include "tests/unit/batching/batcher_fixture.h"

namespace sconce {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// What happened, in order. Thread-safe.
class Record {
 public:
  void Add(std::string what) {
    MutexLock lock(&mutex_);
    happened_.push_back(std::move(what));
    changed_.NotifyAll();
  }
  std::vector<std::string> Await(size_t count) {
    MutexLock lock(&mutex_);
    while (happened_.size() < count) changed_.Wait(&mutex_);
    return happened_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<std::string> happened_ ABSL_GUARDED_BY(mutex_);
};

using Happened = std::vector<std::string>;

// One replica of depth 2, whose launches and finishes are recorded and can be held back.
class OverlapTest : public BatcherTest {
 protected:
  explicit OverlapTest(const Clock* clock = Clock::Real()) : BatcherTest(clock) {}
  ~OverlapTest() override {
    launches_.Open();
    finishes_.Open();
    registry_.Remove("m");
  }

  FakeReplica::Behaviour Deep(int depth = 2) {
    return {.on_run =
                [this](int64_t rows) {
                  record_.Add("launch " + std::to_string(rows));
                  launches_.Pass();
                  return absl::OkStatus();
                },
            .on_finish =
                [this](int64_t rows) {
                  record_.Add("finish " + std::to_string(rows));
                  if (while_finishing_) while_finishing_();
                  finishes_.Pass();
                  return absl::OkStatus();
                },
            .depth = depth};
  }
  void PublishDeep(int64_t max_batch_size, int depth = 2) {
    auto version = MakeFakeVersion("m", 1, Deep(depth));
    version->config.max_batch_size = max_batch_size;
    Publish(std::move(version));
  }
  void SubmitRecorded(int64_t rows) {
    InferRequest request = Request(rows, 0);
    request.done = [this, rows](Answer answer) {
      record_.Add((answer.ok() ? "answer " : "refuse ") + std::to_string(rows));
    };
    batchers_.Find("m")->Submit(std::move(request));
  }

  Record record_;
  Gate launches_;
  Gate finishes_;
  std::function<void()> while_finishing_;
};

TEST_F(OverlapTest, TheNextBatchIsLaunchedWhileOneIsUnderWay) {
  PublishDeep(2);
  launches_.Close();
  finishes_.Close();
  SubmitRecorded(2);
  record_.Await(1);
  SubmitRecorded(1);
  SubmitRecorded(2);
  launches_.Open();
  EXPECT_EQ(record_.Await(3), (Happened{"launch 2", "launch 1", "finish 2"}))
      << "and the third waits, because two may be under way";
  finishes_.Open();
  EXPECT_EQ(record_.Await(9).size(), 9u);
  const StatisticsSnapshot counts = registry_.Find("m")->statistics().Snapshot();
  EXPECT_EQ(counts.execution_count, 3u);
  EXPECT_EQ(counts.success.count, 3u);
}

TEST_F(OverlapTest, AnIdleDeviceGetsTheNextBatchBeforeTheLastOneIsAnswered) {
  PublishDeep(8);
  finishes_.Close();
  SubmitRecorded(1);
  record_.Await(2);
  SubmitRecorded(2);
  finishes_.Open();
  EXPECT_EQ(record_.Await(6),
            (Happened{"launch 1", "finish 1", "launch 2", "answer 1", "finish 2", "answer 2"}));
}

TEST_F(OverlapTest, WithoutDepthABatchIsAnsweredBeforeTheNextIsAssembled) {
  PublishDeep(8, /*depth=*/1);
  finishes_.Close();
  SubmitRecorded(1);
  record_.Await(2);
  SubmitRecorded(2);
  finishes_.Open();
  EXPECT_EQ(record_.Await(6),
            (Happened{"launch 1", "finish 1", "answer 1", "launch 2", "finish 2", "answer 2"}));
}

TEST_F(OverlapTest, ThreeBatchesAreUnderWayAtDepthThree) {
  PublishDeep(1, /*depth=*/3);
  launches_.Close();
  finishes_.Close();
  for (int i = 0; i < 4; ++i) SubmitRecorded(1);
  launches_.Open();
  EXPECT_EQ(record_.Await(4), (Happened{"launch 1", "launch 1", "launch 1", "finish 1"}));
}

TEST_F(OverlapTest, StoppingAnswersWhatIsUnderWay) {
  PublishDeep(1);
  launches_.Close();
  finishes_.Close();
  auto first = Submit(Request(1, 1)), second = Submit(Request(1, 2));
  launches_.Open();
  record_.Await(3);
  std::thread remover([&] { registry_.Remove("m"); });
  finishes_.Open();
  EXPECT_TRUE(first.get().ok());
  EXPECT_TRUE(second.get().ok());
  remover.join();
}

// With a clock that stands still, an executor that knows how long a batch takes waits for as long
// as the test likes. Its clock is far behind the machine's, so that no wait takes time.
class OverlapTimingTest : public OverlapTest {
 protected:
  OverlapTimingTest() : OverlapTest(&fake_) {
    PublishDeep(4);
    while_finishing_ = [this] { fake_.Advance(milliseconds(100)); };
    SubmitRecorded(1);  // so that it is known that a batch takes 100 ms
    record_.Await(3);
    while_finishing_ = nullptr;
    SubmitRecorded(1);
    record_.Await(4);  // under way for the next 100 ms
  }

  static inline FakeClock fake_{seconds(10)};
};

TEST_F(OverlapTimingTest, WhatComesWhileTheDeviceIsBusyIsGathered) {
  SubmitRecorded(1);
  SubmitRecorded(1);
  fake_.Advance(milliseconds(98));
  SubmitRecorded(1);
  fake_.Advance(milliseconds(3));
  Happened happened = record_.Await(6);
  happened.resize(6);
  EXPECT_EQ(happened,
            (Happened{"launch 1", "finish 1", "answer 1", "launch 1", "launch 3", "finish 1"}));
}

TEST_F(OverlapTimingTest, AFullBatchIsNotHeldBack) {
  finishes_.Close();
  for (int i = 0; i < 3; ++i) SubmitRecorded(1);
  SubmitRecorded(2);  // does not fit: the batch of three is full
  EXPECT_EQ(record_.Await(6)[4], "launch 3");
}

TEST_F(OverlapTimingTest, WithNothingWaitingTheBatchUnderWayIsFinished) {
  fake_.Advance(milliseconds(101));
  EXPECT_EQ(record_.Await(6),
            (Happened{"launch 1", "finish 1", "answer 1", "launch 1", "finish 1", "answer 1"}));
}

class DevicesTest : public BatcherTest {
 protected:
  ~DevicesTest() override {
    gate_.Open();
    registry_.Remove("m");
  }

  // Counts its batches in `batches`; those of more than one row are held back.
  FakeReplica::Behaviour On(std::string device, std::atomic<int>* batches) {
    return {.on_run =
                [this, batches](int64_t rows) {
                  ++*batches;
                  if (rows > 1) gate_.Pass();
                  return absl::OkStatus();
                },
            .device = std::move(device)};
  }

  // Publishes, and returns when every executor waits for requests.
  void PublishAndAwaitIdle(std::vector<FakeReplica::Behaviour> behaviours) {
    const size_t executors = behaviours.size();
    PublishOn(1, std::move(behaviours));
    gate_.Close();
    std::vector<std::future<Answer>> answers;
    while (batchers_.UnderWay().size() < executors) {
      const size_t before = batchers_.UnderWay().size();
      answers.push_back(Submit(Request(2, 0)));
      while (batchers_.UnderWay().size() == before) std::this_thread::yield();
    }
    gate_.Open();
    for (auto& answer : answers) EXPECT_TRUE(answer.get().ok());
    while (!batchers_.UnderWay().empty()) std::this_thread::yield();
    on_a_ = on_b_ = 0;
  }

  Gate gate_;
  std::atomic<int> on_a_{0}, on_b_{0};
};

TEST_F(DevicesTest, TheDeviceWithLeastUnderWayTakesTheNextBatch) {
  PublishAndAwaitIdle({On("sim:0", &on_a_), On("sim:0", &on_a_), On("sim:1", &on_b_)});
  gate_.Close();
  auto held = Submit(Request(2, 0));
  gate_.AwaitHeld();
  EXPECT_EQ(on_a_, 1);
  for (int i = 0; i < 5; ++i) {
    EXPECT_TRUE(Submit(Request(1, 0)).get().ok());
    while (batchers_.UnderWay().size() > 1) std::this_thread::yield();
  }
  EXPECT_EQ(on_b_, 5) << "its sibling on the busy device would share it";
  gate_.Open();
  EXPECT_TRUE(held.get().ok());
}

TEST_F(DevicesTest, WhatABatchLeavesBehindIsTakenByTheNextExecutor) {
  FakeReplica::Behaviour a = On("sim:0", &on_a_), b = On("sim:1", &on_b_);
  a.max_rows = b.max_rows = 2;
  PublishAndAwaitIdle({a, b});
  for (int i = 0; i < 50; ++i) {
    gate_.Close();
    auto first = Submit(Request(2, 0)), second = Submit(Request(2, 0));
    while (batchers_.UnderWay().size() < 2) std::this_thread::yield();
    gate_.Open();
    EXPECT_TRUE(first.get().ok());
    EXPECT_TRUE(second.get().ok());
    while (!batchers_.UnderWay().empty()) std::this_thread::yield();
  }
}

TEST_F(DevicesTest, ARequestWaitsForAReplicaThatHasTheMemoryAndIsOvertakenMeanwhile) {
  FakeReplica::Behaviour small = On("sim:0", &on_a_), large = On("sim:1", &on_b_);
  small.max_rows = 1;
  large.max_rows = 8;
  PublishOn(1, {small, large});
  gate_.Close();
  auto held = Submit(Request(8, 0));
  gate_.AwaitHeld();
  auto waits = Submit(Request(5, 0));
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Submit(Request(1, 0)).get().ok());
  EXPECT_EQ(on_b_, 1);
  gate_.Open();
  EXPECT_TRUE(held.get().ok());
  EXPECT_TRUE(waits.get().ok());
  EXPECT_EQ(on_a_, 5);
  EXPECT_EQ(on_b_, 2);
}

TEST_F(DevicesTest, ABatchIsNoLargerThanTheReplicaHasMemoryFor) {
  FakeReplica::Behaviour small = On("sim:0", &on_a_);
  small.max_rows = 3;
  PublishOn(1, {small});
  gate_.Close();
  auto held = Submit(Request(2, 0));
  gate_.AwaitHeld();
  std::vector<std::future<Answer>> answers;
  for (int i = 0; i < 6; ++i) answers.push_back(Submit(Request(1, 0)));
  gate_.Open();
  for (auto& answer : answers) EXPECT_TRUE(answer.get().ok());
  EXPECT_EQ(on_a_, 3);
}

TEST_F(DevicesTest, ARequestThatFitsNoReplicaIsRefusedAtOnce) {
  FakeReplica::Behaviour small = On("sim:0", &on_a_), large = On("sim:1", &on_b_);
  small.max_rows = 2;
  large.max_rows = 8;
  PublishOn(1, {small, large});
  EXPECT_EQ(
      Submit(Request(9, 0)).get().status(),
      absl::ResourceExhaustedError("model 'm': expected at most 8 rows in a request, which is "
                                   "what fits into the memory of sim:1"));
}

TEST_F(DevicesTest, ARequestThatFitsNoReplicaOfANewVersionIsRefusedThen) {
  PublishOn(1, {On("sim:0", &on_a_)});
  gate_.Close();
  auto held = Submit(Request(2, 0));
  gate_.AwaitHeld();
  auto waits = Submit(Request(9, 0));
  FakeReplica::Behaviour small = On("sim:0", &on_a_);
  small.max_rows = 2;
  PublishOn(2, {small});
  gate_.Open();
  EXPECT_TRUE(held.get().ok());
  EXPECT_EQ(waits.get().status().code(), absl::StatusCode::kResourceExhausted);
}

// As SwapsUnderLoadLoseAndMixNothing, with batches that overlap on two devices.
TEST_F(BatcherTest, SwapsUnderLoadLoseAndMixNothingWhereBatchesOverlap) {
  SwapUnderLoad(200, [this](int64_t number) {
    std::vector<FakeReplica::Behaviour> all;
    for (int64_t i = 0; i <= number % 3; ++i) {
      all.push_back({.scale = 0,
                     .bias = static_cast<float>(number),
                     .device = i % 2 == 0 ? "sim:0" : "sim:1",
                     .depth = static_cast<int>(1 + (number + i) % 3)});
    }
    PublishOn(number, std::move(all));
  });
}

}  // namespace
}  // namespace sconce
