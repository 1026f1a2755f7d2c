// Which version a model gives to whom.

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "server/registry/model.h"
#include "tests/support/fake_replica.h"

namespace sconce {
namespace {

std::shared_ptr<const ModelVersion> Version(int64_t number) {
  return MakeFakeVersion("m", number, {});
}

TEST(ServingTest, ANumberFindsWhatAnswersAndNothingElse) {
  Model model("m");
  EXPECT_EQ(model.Pin(), nullptr);
  model.Serve(
      {.live = Version(3), .others = {{1, Version(1)}}, .canary = Version(4), .canary_share = 0.1});
  EXPECT_EQ(model.Pin()->number, 3);
  for (const int64_t number : {1, 3, 4}) EXPECT_EQ(model.Pin(number)->number, number);
  EXPECT_EQ(model.Pin(2), nullptr);
  EXPECT_EQ(model.Pin(0), nullptr);
  model.Retire();
  EXPECT_EQ(model.Pin(1), nullptr);
}

TEST(ServingTest, WhoAsksForAVersionThatIsNotThereHearsWhatIs) {
  EXPECT_EQ(NoSuchVersion(6, {.live = Version(7)}),
            absl::NotFoundError("model 'm' has no version 6, it serves version 7"));
  EXPECT_EQ(NoSuchVersion(6, {.live = Version(7),
                              .others = {{3, Version(3)}, {9, Version(9)}},
                              .canary = Version(8)}),
            absl::NotFoundError("model 'm' has no version 6, it serves versions 3, 7, 8, 9"));
}

TEST(ServingTest, EveryChangeOfWhatAnswersIsSeenWithoutALock) {
  Model model("m");
  uint64_t last = model.serving_change();
  const auto changed = [&] { return std::exchange(last, model.serving_change()) != last; };
  EXPECT_FALSE(changed());
  model.Serve({.live = Version(1), .others = {{7, Version(7)}}, .canary = Version(2)});
  EXPECT_TRUE(changed());
  model.RetireLost(*model.Pin(2), "lost");
  EXPECT_TRUE(changed());
  model.RetireLost(*model.Pin(7), "lost");
  EXPECT_TRUE(changed());
  const auto lost = model.Pin();
  model.RetireLost(*lost, "lost");
  EXPECT_TRUE(changed());
  model.RetireLost(*lost, "told twice");
  EXPECT_FALSE(changed());
}

TEST(ServingTest, ANewServingTakesTheVersionsBeforeOut) {
  Model model("m");
  model.Serve({.live = Version(1), .others = {{7, Version(7)}}});
  const std::weak_ptr<const ModelVersion> before = model.Pin(7);
  model.Serve({.live = Version(2)});
  EXPECT_EQ(model.Pin(7), nullptr);
  EXPECT_TRUE(before.expired());
}

TEST(ServingTest, RecordsAreWhatWasSetLast) {
  Model model("m");
  EXPECT_TRUE(model.records().empty());
  VersionRecord record;
  record.number = 4;
  record.state = VersionState::kHeld;
  model.SetRecords({record});
  ASSERT_EQ(model.records().size(), 1u);
  EXPECT_EQ(model.records()[0].number, 4);
  EXPECT_EQ(model.records()[0].state, VersionState::kHeld);
}

}  // namespace
}  // namespace sconce
