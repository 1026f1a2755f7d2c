#include "server/batching/watchdog.h"

#include <gtest/gtest.h>

#include <chrono>
#include <vector>

#include "tests/support/fake_clock.h"
#include "tests/unit/batching/batcher_fixture.h"

namespace sconce {
namespace {

using std::chrono::seconds;

TEST(OverdueBatchesTest, AreThoseThatBeganAsLongAgoAsTheLimit) {
  const TimePoint now = TimePoint(seconds(1000));
  const auto began = [&](Duration ago) { return WatchedBatch{"m", 1, 1, "cpu", 1, now - ago}; };
  EXPECT_EQ(OverdueBatches({began(seconds(29)), began(seconds(30)), began(seconds(500))}, now,
                           seconds(30)),
            (std::vector<size_t>{1, 2}));
}

class WatchdogTest : public BatcherTest {
 protected:
  WatchdogTest() : BatcherTest(&fake_) {}
  ~WatchdogTest() override {
    gate_.Open();
    registry_.Remove("m");
  }

  static inline FakeClock fake_{std::chrono::hours(1000)};
  Gate gate_;
};

TEST_F(WatchdogTest, ABatchThatDoesNotReturnIsCountedWhileItLasts) {
  Publish(3, {.on_run =
                  [&](int64_t) {
                    gate_.Pass();
                    return absl::OkStatus();
                  },
              .device = "sim:0"});
  Watchdog watchdog([this] { return batchers_.UnderWay(); }, &metrics_, &fake_);
  gate_.Close();
  auto answer = Submit(Request(2, 0));
  gate_.AwaitHeld();
  const std::vector<WatchedBatch> under_way = batchers_.UnderWay();
  ASSERT_EQ(under_way.size(), 1u);
  EXPECT_EQ(under_way[0].model, "m");
  EXPECT_EQ(under_way[0].version, 3);
  EXPECT_EQ(under_way[0].device, "sim:0");
  EXPECT_EQ(under_way[0].rows, 2);

  watchdog.Look();
  EXPECT_EQ(MetricOf("sconce_overdue_batches"), 0);
  fake_.Advance(Watchdog::kLimit);
  watchdog.Look();
  watchdog.Look();
  EXPECT_EQ(MetricOf("sconce_overdue_batches"), 1);

  gate_.Open();
  EXPECT_TRUE(answer.get().ok());
  // The executor's next turn takes it off the list.
  while (!batchers_.UnderWay().empty()) std::this_thread::yield();
  watchdog.Look();
  EXPECT_EQ(MetricOf("sconce_overdue_batches"), 0);
}

}  // namespace
}  // namespace sconce
