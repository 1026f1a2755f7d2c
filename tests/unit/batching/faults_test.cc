// What becomes of requests when a device runs out of memory or is lost.

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/batching/batcher_fixture.h"

namespace sconce {
namespace {

class FaultsTest : public BatcherTest {
 protected:
  FaultsTest() { registry_.SetInitialModels({}); }
  ~FaultsTest() override {
    gate_.Open();
    registry_.Remove("m");
  }

  // Submits requests of these rows so that they are in one batch, behind a first one of a row.
  std::vector<std::future<Answer>> SubmitTogether(const std::vector<int64_t>& rows) {
    gate_.Close();
    hold_ = true;
    first_ = Submit(Request(1, 0));
    gate_.AwaitHeld();
    hold_ = false;
    std::vector<std::future<Answer>> answers;
    float value = 1;
    for (const int64_t n : rows) answers.push_back(Submit(Request(n, value++)));
    gate_.Open();
    return answers;
  }
  void Hold() {
    if (hold_) gate_.Pass();
  }

  Gate gate_;
  std::atomic<bool> hold_{false};
  std::future<Answer> first_;
};

TEST_F(FaultsTest, ABatchThatRunsOutOfMemoryIsSplitUntilItFits) {
  std::vector<int64_t> tried;
  Publish(1, {.scale = 2, .on_run = [&](int64_t rows) {
                Hold();
                tried.push_back(rows);
                return rows > 2 ? absl::ResourceExhaustedError("no room") : absl::OkStatus();
              }});
  auto answers = SubmitTogether({1, 1, 1, 1, 1});
  for (size_t i = 0; i < answers.size(); ++i) {
    const Answer answer = answers[i].get();
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(Values(*answer), std::vector<float>(2, 2 * (i + 1.f)));
  }
  EXPECT_EQ(tried, (std::vector<int64_t>{1, 5, 2, 3, 1, 2}));
  EXPECT_EQ(MetricOf("sconce_out_of_memory_batches_total"), 2);
}

TEST_F(FaultsTest, ARequestThatRunsOutOfMemoryAloneFailsAlone) {
  Publish(1, {.on_finish = [&](int64_t rows) {
            Hold();
            return rows > 2 ? absl::ResourceExhaustedError("no room") : absl::OkStatus();
          }});
  auto answers = SubmitTogether({1, 3, 1, 1});
  EXPECT_TRUE(answers[0].get().ok());
  EXPECT_EQ(answers[1].get().status(), absl::ResourceExhaustedError("m/1: no room"));
  EXPECT_TRUE(answers[2].get().ok());
  EXPECT_TRUE(answers[3].get().ok());
  EXPECT_TRUE(first_.get().ok());
  EXPECT_EQ(registry_.Find("m")->statistics().Snapshot().fail.count, 1u);
}

TEST_F(FaultsTest, ABatchThatRanOutOfMemoryBesideAnotherIsTriedAgainAlone) {
  std::atomic<int> under_way{0};
  std::vector<int64_t> tried;
  Publish(1, {.on_run =
                  [&](int64_t rows) {
                    tried.push_back(rows);
                    if (under_way > 0 && rows == 3) return absl::ResourceExhaustedError("no room");
                    ++under_way;
                    Hold();
                    return absl::OkStatus();
                  },
              .on_finish =
                  [&](int64_t) {
                    --under_way;
                    return absl::OkStatus();
                  },
              .depth = 2});
  auto answers = SubmitTogether({1, 1, 1});
  for (auto& answer : answers) EXPECT_TRUE(answer.get().ok());
  EXPECT_TRUE(first_.get().ok()) << "what was under way is undisturbed";
  EXPECT_EQ(tried, (std::vector<int64_t>{1, 3, 3})) << "whole, and not behind another";
}

TEST_F(FaultsTest, ABatchRefusedForOneOfItsRequestsIsSplitToo) {
  Publish(1, {.on_run = [&](int64_t rows) {
            Hold();
            return rows > 2 ? absl::InvalidArgumentError("one of them is wrong") : absl::OkStatus();
          }});
  auto answers = SubmitTogether({1, 1, 3});
  EXPECT_TRUE(answers[0].get().ok());
  EXPECT_TRUE(answers[1].get().ok());
  EXPECT_EQ(answers[2].get().status(), absl::InvalidArgumentError("m/1: one of them is wrong"));
}

// A device that is lost by the first run for which `breaks` says so.
struct Device {
  std::string name;
  std::atomic<bool> lost{false};
  std::atomic<int> runs{0};

  FakeReplica::Behaviour Behaviour(std::function<bool(int64_t rows)> breaks, int depth = 1) {
    return {.on_run =
                [this, breaks](int64_t rows) {
                  ++runs;
                  if (breaks(rows)) lost = true;
                  return health();
                },
            .on_finish = [this](int64_t) { return health(); },
            .device = name,
            .depth = depth,
            .health = [this] { return health(); }};
  }
  absl::Status health() const {
    return lost ? absl::UnavailableError(name + " is lost: injected") : absl::OkStatus();
  }
};

TEST_F(FaultsTest, TheRequestsOfALostDeviceAreAnsweredByAnother) {
  Device a{"sim:0"}, b{"sim:1"};
  PublishOn(
      1, {a.Behaviour([](int64_t) { return true; }), b.Behaviour([](int64_t) { return false; })});
  int answered = 0;
  for (int more = 5; more > 0; more -= a.lost) {
    const Answer answer = Submit(Request(1, 1)).get();
    ASSERT_TRUE(answer.ok()) << answer.status();
    ++answered;
  }
  EXPECT_EQ(a.runs, 1) << "a lost device gets no more batches";
  EXPECT_EQ(b.runs, answered);
  EXPECT_TRUE(registry_.Ready());
  EXPECT_EQ(registry_.Find("m")->statistics().Snapshot().fail.count, 0u);
}

TEST_F(FaultsTest, WhatIsUnderWayOnALostDeviceIsAnsweredByAnotherInOrder) {
  Device a{"sim:0"}, b{"sim:1"};
  FakeReplica::Behaviour healthy = b.Behaviour([](int64_t) { return false; });
  std::vector<float> together;
  healthy.on_launch = [&](const BatchInput& batch) {
    const HostTensor& input = batch.inputs[0];
    together.resize(input.bytes.size() / sizeof(float));
    std::memcpy(together.data(), input.bytes.data(), input.bytes.size());
    if (input.shape[0] == 7) gate_.Pass();
  };
  Gate launches;
  FakeReplica::Behaviour lost = a.Behaviour([](int64_t) { return false; }, /*depth=*/2);
  lost.max_rows = 1;
  lost.on_launch = [&](const BatchInput&) { launches.Pass(); };
  lost.on_finish = [&](int64_t) {
    a.lost = true;
    return a.health();
  };
  PublishOn(1, {healthy, lost});
  gate_.Close();
  launches.Close();
  auto held = Submit(Request(7, 0));
  gate_.AwaitHeld();
  auto first = Submit(Request(1, 1));
  launches.AwaitHeld();
  auto second = Submit(Request(1, 2)), third = Submit(Request(1, 3));
  launches.Open();
  while (!a.lost || batchers_.UnderWay().size() > 1) std::this_thread::yield();
  gate_.Open();
  EXPECT_TRUE(held.get().ok());
  EXPECT_EQ(Values(*first.get()), std::vector<float>(2, 1));
  EXPECT_EQ(Values(*second.get()), std::vector<float>(2, 2));
  EXPECT_EQ(Values(*third.get()), std::vector<float>(2, 3));
  EXPECT_EQ(a.runs, 2);
  EXPECT_EQ(together, (std::vector<float>{1, 1, 2, 2, 3, 3}));
}

TEST_F(FaultsTest, ARequestThatTakesOutDevicesTakesOutTwoAtMost) {
  Device devices[] = {{"sim:0"}, {"sim:1"}, {"sim:2"}};
  std::vector<FakeReplica::Behaviour> behaviours;
  for (Device& device : devices) {
    behaviours.push_back(device.Behaviour([](int64_t rows) { return rows == 7; }));
  }
  PublishOn(1, std::move(behaviours));
  EXPECT_EQ(Submit(Request(7, 0)).get().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(devices[0].lost + devices[1].lost + devices[2].lost, 2);
  EXPECT_TRUE(Submit(Request(1, 0)).get().ok());
  EXPECT_TRUE(registry_.Ready());
}

TEST_F(FaultsTest, WithoutADeviceLeftTheModelAndTheServerTurnUnready) {
  Device a{"sim:0"}, b{"sim:1"};
  const auto breaks = [](int64_t) { return true; };
  PublishOn(1, {a.Behaviour(breaks), b.Behaviour(breaks)});
  EXPECT_TRUE(registry_.Ready());
  InferRequest later = Request(1, 0);
  EXPECT_EQ(Submit(Request(1, 0)).get().status().code(), absl::StatusCode::kUnavailable);
  const auto model = registry_.Find("m");
  EXPECT_EQ(model->Pin(), nullptr);
  EXPECT_EQ(model->progress().last_error, "sim:1 is lost: injected");
  EXPECT_FALSE(registry_.Ready());
  EXPECT_EQ(registry_.device_fault(), "model 'm': sim:1 is lost: injected");
  EXPECT_EQ(Submit(std::move(later)).get().status(),
            absl::UnavailableError("model 'm' is not being served: sim:1 is lost: injected"));

  // A version on a device that works serves again; the process stays one that lost a device.
  Publish(2, {.device = "sim:2"});
  EXPECT_EQ(Submit(Request(1, 0)).get()->version->number, 2);
  EXPECT_FALSE(registry_.Ready());
}

TEST_F(FaultsTest, AModelWithoutRequestsHearsOfItsLostDevice) {
  Device a{"sim:0"};
  PublishOn(1, {a.Behaviour([](int64_t) { return false; })});
  a.lost = true;
  batchers_.CheckHealth();
  EXPECT_EQ(registry_.Find("m")->Pin(), nullptr);
  EXPECT_FALSE(registry_.Ready());
}

TEST_F(FaultsTest, WhatWaitsForALostDeviceIsRefused) {
  Device a{"sim:0"};
  FakeReplica::Behaviour behaviour = a.Behaviour([](int64_t) { return false; });
  behaviour.on_finish = [&](int64_t) {
    Hold();
    a.lost = true;
    return a.health();
  };
  PublishOn(1, {behaviour});
  auto answers = SubmitTogether({1, 1});
  EXPECT_EQ(first_.get().status(), absl::UnavailableError("m/1: sim:0 is lost: injected"));
  for (auto& answer : answers) {
    EXPECT_EQ(answer.get().status(),
              absl::UnavailableError("model 'm' is not being served: sim:0 is lost: injected"));
  }
}

// Under load, one device runs out of memory now and then and another is lost: nothing is lost,
// mixed, or answered twice.
TEST_F(FaultsTest, UnderLoadALostDeviceAndFullMemoryCostNoAnswer) {
  Device a{"sim:0"}, b{"sim:1"};
  FakeReplica::Behaviour breaks = a.Behaviour([&a](int64_t) { return a.runs == 40; }, 2);
  breaks.scale = 3;
  std::atomic<int> runs{0};
  PublishOn(1, {breaks,
                {.scale = 3,
                 .on_run =
                     [&](int64_t rows) {
                       return ++runs % 5 == 0 && rows > 3 ? absl::ResourceExhaustedError("no room")
                                                          : absl::OkStatus();
                     },
                 .device = "sim:1",
                 .depth = 2}});
  std::vector<std::thread> clients;
  for (int c = 0; c < 6; ++c) {
    clients.emplace_back([&, c] {
      for (int i = 0; i < 300; ++i) {
        const Answer answer = Submit(Request(1 + c % 3, static_cast<float>(c))).get();
        ASSERT_TRUE(answer.ok()) << answer.status();
        ASSERT_EQ(Values(*answer), std::vector<float>((1 + c % 3) * 2, 3.f * c));
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(a.lost);
  EXPECT_EQ(registry_.Find("m")->statistics().Snapshot().success.count, 1800u);
}

}  // namespace
}  // namespace sconce
