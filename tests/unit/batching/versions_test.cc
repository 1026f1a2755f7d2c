// Versions of a model that answer side by side: by number, and as a canary.

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/batching/batcher_fixture.h"

namespace sconce {
namespace {

class VersionsTest : public BatcherTest {
 protected:
  VersionsTest() { registry_.SetInitialModels({}); }
  ~VersionsTest() override {
    gate_.Open();
    registry_.Remove("m");
  }

  // Holds back batches of three rows, and notes all, as "version:rows".
  FakeReplica::Behaviour Noted(int64_t number) {
    return {.scale = 0, .bias = static_cast<float>(number), .on_run = [this, number](int64_t rows) {
              {
                MutexLock lock(&mutex_);
                batches_.push_back(std::to_string(number) + ":" + std::to_string(rows));
              }
              if (rows == 3) gate_.Pass();
              return absl::OkStatus();
            }};
  }
  std::vector<std::string> Batches() {
    MutexLock lock(&mutex_);
    return batches_;
  }
  int64_t Answering(std::future<Answer> answer) {
    const Answer got = answer.get();
    EXPECT_TRUE(got.ok()) << got.status();
    if (!got.ok()) return -1;
    EXPECT_EQ(Values(*got)[0], static_cast<float>(got->version->number));
    return got->version->number;
  }

  Gate gate_;
  Mutex mutex_;
  std::vector<std::string> batches_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(VersionsTest, RequestsAreRunTogetherWithThoseOfTheirVersionAloneTheOldestFirst) {
  Serve({.live = Version(3, Noted(3)), .others = {{1, Version(1, Noted(1))}}});
  gate_.Close();
  auto held = Submit(Request(3, 0));
  gate_.AwaitHeld();
  std::vector<std::future<Answer>> answers;
  for (const int64_t wanted : {1, 0, 1, 3, 0}) answers.push_back(Submit(RequestOf(wanted)));
  gate_.Open();
  EXPECT_EQ(Answering(std::move(held)), 3);
  for (const int64_t version : {1, 3, 1, 3, 3}) {
    EXPECT_EQ(Answering(std::move(answers.front())), version);
    answers.erase(answers.begin());
  }
  EXPECT_EQ(Batches(), (std::vector<std::string>{"3:3", "1:2", "3:3"}))
      << "who asks for the live version by its number shares its batches";
}

TEST_F(VersionsTest, AVersionThatIsWithdrawnWhileRequestsWaitForItIsNotFound) {
  Serve({.live = Version(3, Noted(3)), .others = {{1, Telling(1)}, {2, Telling(2)}}});
  gate_.Close();
  auto held = Submit(Request(3, 0));
  gate_.AwaitHeld();
  auto withdrawn = Submit(RequestOf(1)), stays = Submit(RequestOf(2)), any = Submit(RequestOf(0));
  Serve({.live = Telling(4), .others = {{2, Telling(2)}}});
  gate_.Open();
  EXPECT_EQ(Answering(std::move(held)), 3);
  EXPECT_EQ(withdrawn.get().status(),
            absl::NotFoundError("model 'm' has no version 1, it serves versions 2, 4"));
  EXPECT_EQ(Answering(std::move(stays)), 2);
  EXPECT_EQ(Answering(std::move(any)), 4);
  EXPECT_EQ(Submit(RequestOf(9)).get().status().code(), absl::StatusCode::kNotFound);
}

TEST_F(VersionsTest, AVersionWithFewerReplicasHoldsUpNoOther) {
  Serve({.live = Version(2, Noted(2), 2), .others = {{1, Version(1, Noted(1), 1)}}});
  gate_.Close();
  // Its only executor is busy with it: what waits for it is overtaken by what the other can take.
  auto held = Submit(RequestOf(1, 3));
  gate_.AwaitHeld();
  auto waits = Submit(RequestOf(1));
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Answering(Submit(RequestOf(0))), 2);
  EXPECT_EQ(waits.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  gate_.Open();
  EXPECT_EQ(Answering(std::move(held)), 1);
  EXPECT_EQ(Answering(std::move(waits)), 1);
}

TEST_F(VersionsTest, ThereAreAsManyExecutorsAsTheLargestVersionHasReplicas) {
  Serve({.live = Telling(2, 1), .others = {{1, Version(1, Noted(1), 3)}}});
  gate_.Close();
  std::vector<std::future<Answer>> held;
  for (int i = 0; i < 3; ++i) {
    held.push_back(Submit(RequestOf(1, 3)));
    while (batchers_.UnderWay().size() < held.size()) std::this_thread::yield();
  }
  gate_.Open();
  for (auto& answer : held) EXPECT_EQ(Answering(std::move(answer)), 1);
}

TEST_F(VersionsTest, RowsThatFitOneVersionMayNotFitAnother) {
  FakeReplica::Behaviour small = Noted(1);
  small.max_rows = 2;
  small.device = "sim:0";
  Serve({.live = Telling(2), .others = {{1, Version(1, small)}}});
  EXPECT_EQ(Answering(Submit(RequestOf(0, 5))), 2);
  EXPECT_EQ(
      Submit(RequestOf(1, 5)).get().status(),
      absl::ResourceExhaustedError("model 'm': expected at most 2 rows in a request, which is "
                                   "what fits into the memory of sim:0"));
}

TEST_F(VersionsTest, ACanaryAnswersItsShareOfTheBatchesSpreadEvenly) {
  const auto trial = std::make_shared<CanaryTrial>(1, 2);
  Serve({.live = Telling(1), .canary = Telling(2), .canary_share = 0.25, .trial = trial});
  std::string order;
  for (int i = 0; i < 12; ++i) order += std::to_string(Answering(Submit(RequestOf(0))));
  EXPECT_EQ(order, "111211121112");
  for (int i = 0; i < 8; ++i) EXPECT_EQ(Answering(Submit(RequestOf(1))), 1);
  EXPECT_EQ(Answering(Submit(RequestOf(2))), 2);
  EXPECT_EQ(trial->live().requests, 17);
  EXPECT_EQ(trial->canary().requests, 4);
  EXPECT_EQ(trial->canary().by_rows.at(1).batches, 4);
  EXPECT_EQ(trial->canary().failed, 0);
  EXPECT_EQ(trial->canary().non_finite, 0);
  Serve({.live = Telling(2)});
  EXPECT_EQ(Answering(Submit(RequestOf(0))), 2);
  EXPECT_EQ(trial->canary().requests, 4) << "the trial is over";
}

TEST_F(VersionsTest, ARequestThatTheCanaryCannotTakeIsAnsweredByTheLiveVersion) {
  auto other = MakeFakeVersion("m", 2, {}, {3});
  Serve({.live = Telling(1), .canary = reaper_.Own(std::move(other)), .canary_share = 0.5});
  for (int i = 0; i < 6; ++i) EXPECT_EQ(Answering(Submit(RequestOf(0))), 1);

  FakeReplica::Behaviour small = Noted(2);
  small.max_rows = 1;
  Serve({.live = Telling(1), .canary = Version(2, small), .canary_share = 0.5});
  for (int i = 0; i < 6; ++i) EXPECT_EQ(Answering(Submit(RequestOf(0, 2))), 1);
  EXPECT_EQ(Answering(Submit(RequestOf(0, 1))), 2) << "its turn has long come";
}

TEST_F(VersionsTest, WhatACanaryFailsIsCountedUnlessItIsTheClientsFault) {
  const auto trial = std::make_shared<CanaryTrial>(1, 2);
  absl::Status fails = absl::InternalError("the network threw");
  Serve({.live = Telling(1),
         .canary = Version(2, {.on_run = [&](int64_t) { return fails; }}),
         .canary_share = 0.5,
         .trial = trial});
  const auto ask = [&] {
    EXPECT_EQ(Answering(Submit(RequestOf(0))), 1);
    return Submit(RequestOf(0)).get().status();
  };
  EXPECT_EQ(ask(), absl::InternalError("m/2: the network threw"));
  EXPECT_EQ(trial->canary().failed, 1);
  fails = absl::ResourceExhaustedError("no room");
  EXPECT_EQ(ask(), absl::ResourceExhaustedError("m/2: no room"));
  EXPECT_EQ(trial->canary().failed, 2);
  fails = absl::InvalidArgumentError("a wrong size");
  EXPECT_EQ(ask(), absl::InvalidArgumentError("m/2: a wrong size"));
  EXPECT_EQ(trial->canary().failed, 2);
  EXPECT_EQ(trial->live().failed, 0);
  EXPECT_EQ(trial->live().requests, 3);
}

TEST_F(VersionsTest, OutputsThatAreNotFiniteAreNoted) {
  const auto trial = std::make_shared<CanaryTrial>(1, 2);
  Serve({.live = Telling(1),
         .canary = Version(2, {.bias = std::numeric_limits<float>::infinity()}),
         .canary_share = 0.5,
         .trial = trial});
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(Submit(RequestOf(0)).get().ok());
  EXPECT_EQ(trial->canary().non_finite, 2);
  EXPECT_EQ(trial->live().non_finite, 0);
}

// Replicas whose device is lost once `lost` says so.
FakeReplica::Behaviour On(const std::string& device, const std::atomic<bool>* lost, float tells) {
  const auto health = [device, lost] {
    return *lost ? absl::UnavailableError(device + " is lost") : absl::OkStatus();
  };
  return {.scale = 0,
          .bias = tells,
          .on_run = [health](int64_t) { return health(); },
          .device = device,
          .health = health};
}

TEST_F(VersionsTest, ACanaryThatLosesItsDeviceGoesAloneAndNobodyNotices) {
  std::atomic<bool> lost{false}, sound{false};
  Serve({.live = Version(1, On("sim:0", &sound, 1)),
         .canary = Version(2, On("sim:1", &lost, 2)),
         .canary_share = 0.5});
  lost = true;  // found out by the first batch of it
  for (int i = 0; i < 6; ++i) EXPECT_EQ(Answering(Submit(RequestOf(0))), 1);
  EXPECT_EQ(registry_.Find("m")->serving().canary, nullptr);
  EXPECT_TRUE(registry_.Ready());
}

TEST_F(VersionsTest, AVersionThatLosesItsDeviceGoesAloneWithWhatWaitsForIt) {
  std::atomic<bool> lost{false}, sound{false};
  FakeReplica::Behaviour live = On("sim:0", &sound, 2);
  live.on_launch = [this](const BatchInput& batch) {
    if (batch.inputs[0].shape[0] == 3) gate_.Pass();
  };
  Serve({.live = Version(2, live), .others = {{1, Version(1, On("sim:1", &lost, 1))}}});
  gate_.Close();
  auto held = Submit(RequestOf(0, 3));
  gate_.AwaitHeld();
  auto waits = Submit(RequestOf(1)), other = Submit(RequestOf(0));
  lost = true;
  batchers_.CheckHealth();
  EXPECT_EQ(waits.get().status(),
            absl::UnavailableError("model 'm' is not being served: sim:1 is lost"));
  EXPECT_EQ(registry_.Find("m")->Pin(1), nullptr);
  EXPECT_TRUE(registry_.Ready());
  gate_.Open();
  EXPECT_EQ(Answering(std::move(held)), 2);
  EXPECT_EQ(Answering(std::move(other)), 2);
}

TEST_F(VersionsTest, TheLiveVersionsAnswersAreKeptWhereTheyAreWanted) {
  RecentRequests& recent = registry_.Add("m")->recent_requests();
  Serve({.live = Version(1, {.scale = 2}),
         .others = {{7, Telling(7)}},
         .canary = Telling(2),
         .canary_share = 0.5});
  EXPECT_TRUE(Submit(RequestOf(1, 1, 5)).get().ok());
  EXPECT_TRUE(recent.Of(1, "id1").empty()) << "nobody wants them";

  recent.SetCapacity(10);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(Submit(RequestOf(0, 2, 5)).get().ok());
  EXPECT_TRUE(Submit(RequestOf(7, 1, 5)).get().ok());
  InferRequest on_device = RequestOf(1, 1, 5);
  on_device.bytes = {{{}, DeviceBytes{"sim:0", nullptr, 8}}};
  EXPECT_TRUE(Submit(std::move(on_device)).get().ok());
  EXPECT_TRUE(recent.Of(2, "id2").empty()) << "a canary's answers prove nothing";
  EXPECT_TRUE(recent.Of(7, "id7").empty());
  const auto kept = recent.Of(1, "id1");
  ASSERT_EQ(kept.size(), 1u);
  const auto floats = [](const KeptTensor& tensor) {
    std::vector<float> values(tensor.bytes.size() / sizeof(float));
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    return values;
  };
  ASSERT_EQ(kept[0]->inputs.size(), 1u);
  EXPECT_EQ(kept[0]->inputs[0].shape, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(floats(kept[0]->inputs[0]), std::vector<float>(4, 5));
  ASSERT_EQ(kept[0]->outputs.size(), 1u);
  EXPECT_EQ(kept[0]->outputs[0].shape, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(floats(kept[0]->outputs[0]), std::vector<float>(4, 10));
}

}  // namespace
}  // namespace sconce
