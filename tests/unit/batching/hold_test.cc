// Batches that are held back while what they run on is changed.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "tests/unit/batching/batcher_fixture.h"

namespace sconce {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Held = absl::StatusOr<std::unique_ptr<BatchHold>>;

class HoldTest : public BatcherTest {
 protected:
  HoldTest() { registry_.SetInitialModels({}); }
  ~HoldTest() override {
    gate_.Open();
    registry_.Remove("m");
  }

  // Passes the gate and counts its batches.
  FakeReplica::Behaviour Gated(float tells = 1) {
    return {.scale = 0, .bias = tells, .on_run = [this](int64_t) {
              ++begun_;
              gate_.Pass();
              return absl::OkStatus();
            }};
  }
  Held Hold(Duration patience = seconds(60)) { return batchers_.HoldBatches("m", patience); }

  // Returns once an executor has looked at the queue and found that it must not begin.
  void AwaitLook() {
    InferRequest late = Request(1, 0);
    late.deadline = Clock::Real()->Now();
    EXPECT_EQ(Submit(std::move(late)).get().status().code(), absl::StatusCode::kDeadlineExceeded);
  }

  Gate gate_;
  std::atomic<int> begun_{0};
};

TEST_F(HoldTest, WhatIsUnderWayEndsFirstAndWhatComesWaits) {
  Publish(1, Gated());
  gate_.Close();
  auto running = Submit(Request(1, 0));
  gate_.AwaitHeld();
  std::atomic<bool> held{false};
  std::thread holder([&] {
    auto hold = Hold();
    ASSERT_TRUE(hold.ok()) << hold.status();
    held = true;
    EXPECT_EQ(running.wait_for(seconds(0)), std::future_status::ready);
    auto waiting = Submit(Request(1, 0));
    AwaitLook();
    EXPECT_EQ(waiting.wait_for(seconds(0)), std::future_status::timeout);
    EXPECT_EQ(begun_, 1);
    EXPECT_TRUE(batchers_.UnderWay().empty());
    hold->reset();
    EXPECT_TRUE(waiting.get().ok());
  });
  EXPECT_FALSE(held);
  gate_.Open();
  holder.join();
  EXPECT_TRUE(running.get().ok());
  EXPECT_TRUE(Submit(Request(1, 0)).get().ok());
}

TEST_F(HoldTest, AllThatOverlapsEndsFirstOnEveryExecutor) {
  std::atomic<int> under_way{0};
  FakeReplica::Behaviour deep = Gated();
  deep.depth = 2;
  deep.on_launch = [&](const BatchInput&) { ++under_way; };
  deep.on_finish = [&](int64_t) {
    --under_way;
    return absl::OkStatus();
  };
  PublishOn(1, {deep, deep});
  std::vector<std::future<Answer>> answers;
  for (int round = 0; round < 50; ++round) {
    for (int i = 0; i < 8; ++i) answers.push_back(Submit(Request(1, 0)));
    const auto hold = Hold();
    ASSERT_TRUE(hold.ok()) << hold.status();
    ASSERT_EQ(under_way, 0);
  }
  for (auto& answer : answers) EXPECT_TRUE(answer.get().ok());
}

TEST_F(HoldTest, WhoeverLosesPatienceHoldsNothing) {
  Publish(1, Gated());
  gate_.Close();
  auto running = Submit(Request(1, 0));
  gate_.AwaitHeld();
  EXPECT_EQ(Hold(milliseconds(2)).status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Hold(-seconds(1)).status().code(), absl::StatusCode::kDeadlineExceeded);
  auto next = Submit(Request(1, 0));
  gate_.Open();
  EXPECT_TRUE(running.get().ok());
  EXPECT_TRUE(next.get().ok());
}

TEST_F(HoldTest, OneHoldsAtATime) {
  Publish(1, {});
  auto first = Hold();
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(Hold().status().code(), absl::StatusCode::kFailedPrecondition);
  auto waiting = Submit(Request(1, 0));
  first->reset();
  EXPECT_TRUE(Hold().ok());
  EXPECT_TRUE(waiting.get().ok());
}

TEST_F(HoldTest, AModelThatIsNotThereCannotBeHeld) {
  EXPECT_EQ(Hold().status(), absl::NotFoundError("there is no model 'm'"));
  registry_.Add("m");
  EXPECT_TRUE(Hold().ok()) << "one without a version has nothing under way";
}

TEST_F(HoldTest, DeadlinesPassAndQueuesFillMeanwhile) {
  auto version = MakeFakeVersion("m", 1, {});
  version->config.max_queue_size = 2;
  Publish(std::move(version));
  auto hold = Hold();
  auto patient = Submit(Request(1, 0));
  InferRequest limited = Request(1, 0);
  limited.deadline = Clock::Real()->Now() + milliseconds(3);
  auto in_time = Submit(std::move(limited));
  EXPECT_EQ(Submit(Request(1, 0)).get().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(in_time.get().status().code(), absl::StatusCode::kDeadlineExceeded);
  auto fits_again = Submit(Request(1, 0));
  hold->reset();
  EXPECT_TRUE(patient.get().ok());
  EXPECT_TRUE(fits_again.get().ok());
}

TEST_F(HoldTest, AVersionPublishedMeanwhileAnswersWhatWaits) {
  Publish(1, {.scale = 0, .bias = 1});
  auto hold = Hold();
  auto waiting = Submit(Request(1, 0));
  Publish(2, {.scale = 0, .bias = 2}, 3);
  AwaitLook();
  EXPECT_EQ(waiting.wait_for(seconds(0)), std::future_status::timeout);
  hold->reset();
  EXPECT_EQ(waiting.get()->version->number, 2);
}

TEST_F(HoldTest, AModelMayBeRemovedWhileItIsHeld) {
  Publish(1, {});
  auto hold = Hold();
  auto waiting = Submit(Request(1, 0));
  registry_.Remove("m");
  EXPECT_EQ(waiting.get().status().code(), absl::StatusCode::kUnavailable);
  Publish(2, {});
  EXPECT_TRUE(Submit(Request(1, 0)).get().ok()) << "another model of that name is not held";
  hold->reset();
  EXPECT_TRUE(Submit(Request(1, 0)).get().ok());
}

TEST_F(HoldTest, AModelMayBeRemovedWhileItIsToBeHeld) {
  Publish(1, Gated());
  gate_.Close();
  auto running = Submit(Request(1, 0));
  gate_.AwaitHeld();
  std::thread holder([&] {
    absl::Status status;
    do {
      status = Hold().status();
    } while (absl::IsFailedPrecondition(status));  // the look below, for an instant
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  });
  // Held back by the batch under way, so it is the removal that ends the wait for it.
  while (batchers_.Find("m")->Hold(Duration::zero()).code() !=
         absl::StatusCode::kFailedPrecondition) {
    std::this_thread::yield();
  }
  std::thread remover([&] { registry_.Remove("m"); });
  holder.join();
  gate_.Open();
  remover.join();
  EXPECT_TRUE(running.get().ok());
}

TEST_F(HoldTest, ADeviceLostMeanwhileAnswersWhatWaits) {
  std::atomic<bool> lost{false};
  Publish(1, {.health = [&] {
            return lost ? absl::UnavailableError("sim:0 is lost") : absl::OkStatus();
          }});
  auto hold = Hold();
  auto waiting = Submit(Request(1, 0));
  lost = true;
  batchers_.CheckHealth();
  EXPECT_EQ(waiting.get().status().code(), absl::StatusCode::kUnavailable);
  hold->reset();
  EXPECT_FALSE(registry_.Ready());
}

// Versions come and go, some as canaries, one stays by its number, and batches are held between:
// every request is answered by one version, with that version's values, and by the one it asked
// for; and no batch runs while they are held.
TEST_F(HoldTest, SwapsCanariesNumbersAndHoldsUnderLoadLoseAndMixNothing) {
  std::atomic<bool> held{false};
  std::atomic<int64_t> under_hold{0};
  const auto telling = [&](int64_t number, size_t replicas) {
    return Version(number,
                   {.scale = 0,
                    .bias = static_cast<float>(number),
                    .on_run =
                        [&](int64_t) {
                          if (held) ++under_hold;
                          return absl::OkStatus();
                        },
                    .depth = static_cast<int>(1 + number % 2)},
                   replicas);
  };
  const auto stays = telling(1, 2);
  Serve({.live = telling(2, 1), .others = {{1, stays}}});
  std::atomic<bool> stop{false};
  std::atomic<int64_t> answered{0}, by_number{0};
  std::vector<std::thread> clients;
  for (int c = 0; c < 4; ++c) {
    clients.emplace_back([&, c] {
      for (int i = 0; !stop; ++i) {
        const int64_t wanted = (i + c) % 3 == 0 ? 1 : 0;
        const Answer answer = Submit(RequestOf(wanted, 1 + c, 7)).get();
        ASSERT_TRUE(answer.ok()) << answer.status();
        const int64_t number = answer->version->number;
        ASSERT_EQ(number == 1, wanted == 1);
        ASSERT_EQ(Values(*answer), std::vector<float>((1 + c) * 2, static_cast<float>(number)));
        ++answered;
        by_number += wanted;
      }
    });
  }
  for (int64_t number = 3; number <= 200; ++number) {
    const int64_t before = answered;
    Serving serving{.live = telling(number, 1 + number % 3), .others = {{1, stays}}};
    if (number % 4 == 0) {
      serving.canary = telling(1000 + number, 1 + number % 2);
      serving.canary_share = 0.3;
      serving.trial = std::make_shared<CanaryTrial>(number, 1000 + number);
    }
    if (number % 5 == 0) {
      auto hold = Hold();
      ASSERT_TRUE(hold.ok()) << hold.status();
      held = true;
      Serve(std::move(serving));
      held = false;
    } else {
      Serve(std::move(serving));
    }
    while (answered < before + 8) std::this_thread::yield();
  }
  stop = true;
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(under_hold, 0);
  EXPECT_GT(by_number, 0);
  EXPECT_EQ(registry_.Find("m")->statistics().Snapshot().fail.count, 0u);
}

}  // namespace
}  // namespace sconce
