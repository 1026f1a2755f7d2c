#include "server/registry/reaper.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <utility>

#include "tests/support/fake_replica.h"

namespace sconce {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class AtTheEnd : public VersionResources {
 public:
  explicit AtTheEnd(std::function<void()> then) : then_(std::move(then)) {}
  ~AtTheEnd() override { then_(); }

 private:
  const std::function<void()> then_;
};

std::shared_ptr<const ModelVersion> Version(Reaper* reaper, int64_t number,
                                            std::function<void()> at_the_end) {
  auto version = MakeFakeVersion("m", number, {});
  version->resources = std::make_shared<AtTheEnd>(std::move(at_the_end));
  return reaper->Own(std::move(version));
}

TEST(ReaperTest, ThereIsNothingToAwaitWhileVersionsArePinned) {
  Reaper reaper;
  const auto pinned = reaper.Own(MakeFakeVersion("m", 1, {}));
  EXPECT_TRUE(reaper.AwaitDropped(Duration::zero()));
  EXPECT_EQ(reaper.reaped(), 0);
}

TEST(ReaperTest, WhatWasDroppedBeforeIsGoneAfterwards) {
  Reaper reaper;
  for (int64_t number = 1; number <= 20; ++number) {
    std::atomic<int> gone{0};
    for (int i = 0; i < 3; ++i) Version(&reaper, number, [&] { ++gone; }).reset();
    ASSERT_TRUE(reaper.AwaitDropped(seconds(60)));
    ASSERT_EQ(gone, 3);
    ASSERT_EQ(reaper.reaped(), number * 3);
  }
}

TEST(ReaperTest, AnEndThatTakesLongerThanThePatienceIsNotAwaited) {
  Reaper reaper;
  Gate gate;
  gate.Close();
  Version(&reaper, 1, [&] { gate.Pass(); }).reset();
  EXPECT_FALSE(reaper.AwaitDropped(milliseconds(5)));
  gate.Open();
  EXPECT_TRUE(reaper.AwaitDropped(seconds(60)));
}

TEST(ReaperTest, TheEndOfAVersionDoesNotAwaitItself) {
  Reaper reaper;
  std::atomic<int> answered{0};
  Version(&reaper, 1, [&] { answered = reaper.AwaitDropped(seconds(60)) ? 1 : 2; }).reset();
  EXPECT_TRUE(reaper.AwaitDropped(seconds(60)));
  EXPECT_EQ(answered, 2);
}

}  // namespace
}  // namespace sconce
