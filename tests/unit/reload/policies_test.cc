// The reloader's policies that are pure functions, but for the reload policy itself.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/reload/following.h"
#include "server/reload/promotion.h"
#include "server/reload/refusals.h"
#include "server/reload/retention.h"
#include "server/reload/version_policy.h"
#include "server/reload/version_records.h"
#include "tests/support/fake_replica.h"

namespace sconce {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

using Numbers = std::set<int64_t>;
using Kind = VersionPolicy::Kind;

TEST(VersionPolicyTest, LatestWantsTheHighest) {
  const VersionPolicy two{.kind = Kind::kLatest, .latest = 2, .specific = {}};
  EXPECT_THAT(WantedVersions(two, {1, 2, 7}), ElementsAre(2, 7));
  EXPECT_THAT(WantedVersions(two, {5}), ElementsAre(5));
  EXPECT_THAT(WantedVersions(two, {}), IsEmpty());
}

TEST(VersionPolicyTest, AllAndSpecificWantWhatIsThere) {
  EXPECT_THAT(WantedVersions({.kind = Kind::kAll, .latest = 1, .specific = {}}, {1, 3}),
              ElementsAre(1, 3));
  EXPECT_THAT(WantedVersions({.kind = Kind::kSpecific, .latest = 1, .specific = {2, 3}}, {1, 3}),
              ElementsAre(3));
}

TEST(VersionPolicyTest, VersionIsWithdrawnOnlyWhenItsSuccessorServes) {
  EXPECT_THAT(VersionsToWithdraw({2}, {1}), IsEmpty());
  EXPECT_THAT(VersionsToWithdraw({2}, {1, 2}), ElementsAre(1));
  // One successor of two is there: the higher of the two before is kept.
  EXPECT_THAT(VersionsToWithdraw({3, 4}, {1, 2, 3}), ElementsAre(1));
  EXPECT_THAT(VersionsToWithdraw({}, {1, 2}), IsEmpty());
}

TEST(FollowingTest, ModesAndWishesDecide) {
  const Standing fresh{.established = false, .serves = false, .served_before = false};
  const Standing serving{.established = true, .serves = true, .served_before = true};
  const Standing restarted{.established = false, .serves = false, .served_before = true};
  EXPECT_TRUE(FollowsFolder(ControlMode::kFollow, {}, serving));
  EXPECT_TRUE(FollowsFolder(ControlMode::kFixed, {}, fresh));
  EXPECT_FALSE(FollowsFolder(ControlMode::kFixed, {}, serving));
  EXPECT_FALSE(FollowsFolder(ControlMode::kCommand, {}, fresh));
  EXPECT_TRUE(FollowsFolder(ControlMode::kCommand, {.loaded_on_command = true}, restarted));
  EXPECT_FALSE(FollowsFolder(ControlMode::kCommand, {.loaded_on_command = true}, serving));
  EXPECT_FALSE(FollowsFolder(ControlMode::kFollow, {.unloaded = true}, serving));
  EXPECT_FALSE(FollowsFolder(ControlMode::kFollow, {.overridden = true}, serving));
  EXPECT_FALSE(FollowsFolder(ControlMode::kFollow, {.pinned = true}, serving));
  EXPECT_FALSE(FollowsFolder(ControlMode::kFollow, {.pinned = true}, fresh));
  EXPECT_TRUE(FollowsFolder(ControlMode::kFollow, {.pinned = true}, restarted));
}

TEST(FollowingTest, WhatIsNotFollowedOutlivesItsFolder) {
  const Standing serving{.established = true, .serves = true, .served_before = true};
  const Standing idle{.established = false, .serves = false, .served_before = false};
  EXPECT_FALSE(StaysWithoutFolder(ControlMode::kFollow, {}, serving));
  EXPECT_TRUE(StaysWithoutFolder(ControlMode::kFollow, {.pinned = true}, serving));
  EXPECT_TRUE(StaysWithoutFolder(ControlMode::kFollow, {.overridden = true}, serving));
  EXPECT_TRUE(StaysWithoutFolder(ControlMode::kCommand, {}, serving));
  EXPECT_FALSE(StaysWithoutFolder(ControlMode::kCommand, {}, idle));
  EXPECT_TRUE(IsAwaited(ControlMode::kFollow, {}));
  EXPECT_FALSE(IsAwaited(ControlMode::kFollow, {.unloaded = true}));
  EXPECT_FALSE(IsAwaited(ControlMode::kCommand, {}));
  EXPECT_TRUE(IsAwaited(ControlMode::kCommand, {.loaded_on_command = true}));
}

TEST(PromotionTest, ManualHoldsAllButWhatWasPromotedBefore) {
  const auto live = MakeFakeVersion("m", 1, {}), next = MakeFakeVersion("m", 2, {});
  next->config.manual_promotion = true;
  EXPECT_EQ(ChooseEntrance(*next, nullptr, ""), Entrance::kPublish);
  EXPECT_EQ(ChooseEntrance(*next, live.get(), "id1"), Entrance::kHold);
  EXPECT_EQ(ChooseEntrance(*next, nullptr, "id1"), Entrance::kHold);
  EXPECT_EQ(ChooseEntrance(*next, nullptr, "id2"), Entrance::kPublish);
  next->config.canary.share = 0.5;
  EXPECT_EQ(ChooseEntrance(*next, live.get(), "id1"), Entrance::kCanary);
  EXPECT_EQ(ChooseEntranceAfterCanary(*next), Entrance::kHold);
}

TEST(PromotionTest, PromotedWeightsInAnotherProgramAreHeld) {
  const auto live = MakeFakeVersion("m", 1, {}), next = MakeFakeVersion("m", 2, {});
  next->config.manual_promotion = true;
  EXPECT_EQ(ChooseEntrance(*next, live.get(), next->weights_id), Entrance::kPublish);
  next->architecture = "program(program=\"other\")";
  EXPECT_EQ(ChooseEntrance(*next, live.get(), next->weights_id), Entrance::kHold);

  const auto same = MakeFakeVersion("m", 1, {});
  EXPECT_FALSE(IsWorthRetaining(*live, same.get()));
  same->architecture = next->architecture;
  EXPECT_TRUE(IsWorthRetaining(*live, same.get()));
}

TEST(PromotionTest, CanaryNeedsALiveVersionOfTheSameTensors) {
  const auto live = MakeFakeVersion("m", 1, {}), next = MakeFakeVersion("m", 2, {});
  next->config.canary.share = 0.5;
  EXPECT_EQ(ChooseEntrance(*next, nullptr, ""), Entrance::kPublish);
  EXPECT_EQ(ChooseEntrance(*next, live.get(), "id1"), Entrance::kCanary);
  EXPECT_EQ(ChooseEntrance(*next, live.get(), "id2"), Entrance::kPublish);
  EXPECT_EQ(ChooseEntranceAfterCanary(*next), Entrance::kPublish);
  next->signature.outputs[0].dims = {3};
  EXPECT_EQ(ChooseEntrance(*next, live.get(), "id1"), Entrance::kPublish);
}

std::deque<KnownVersion> RetainedOf(const std::vector<int64_t>& numbers,
                                    FakeReplica::Behaviour behaviour = {}) {
  std::deque<KnownVersion> retained;
  for (const int64_t number : numbers) {
    KnownVersion known;
    known.version = MakeFakeVersion("m", number, behaviour);
    retained.push_back(std::move(known));
  }
  return retained;
}

TEST(RetentionTest, RollbackTakesTheOneBefore) {
  const auto live = MakeFakeVersion("m", 3, {});
  EXPECT_EQ(*ChooseRollback(RetainedOf({1, 2}), live.get(), 0), 1u);
  EXPECT_EQ(*ChooseRollback(RetainedOf({1, 2}), live.get(), 1), 0u);
  // After a rollback the newer one is retained, and is not what was before.
  EXPECT_EQ(*ChooseRollback(RetainedOf({1, 4}), live.get(), 0), 0u);
  EXPECT_EQ(*ChooseRollback(RetainedOf({1, 4}), live.get(), 4), 1u);
}

TEST(RetentionTest, RollbackSaysWhatIsRetained) {
  const auto live = MakeFakeVersion("m", 3, {});
  const absl::Status missing = ChooseRollback(RetainedOf({1, 2}), live.get(), 7).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("retained: 1, 2"));
  EXPECT_EQ(ChooseRollback({}, live.get(), 0).status().code(),
            absl::StatusCode::kFailedPrecondition);
  const absl::Status lost =
      ChooseRollback(RetainedOf({2}, {.health = [] { return absl::UnavailableError("gone"); }}),
                     live.get(), 0)
          .status();
  EXPECT_EQ(lost.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(lost.message()), HasSubstr("gone"));
}

TEST(RetentionTest, OnlyWhatDiffersIsWorthRetaining) {
  const auto live = MakeFakeVersion("m", 3, {}), next = MakeFakeVersion("m", 4, {});
  EXPECT_TRUE(IsWorthRetaining(*live, next.get()));
  next->weights_id = live->weights_id;
  EXPECT_FALSE(IsWorthRetaining(*live, next.get()));
  next->config.max_batch_size = 3;
  EXPECT_TRUE(IsWorthRetaining(*live, next.get()));
}

TEST(RetentionTest, TheOldestGoFirst) {
  std::deque<KnownVersion> retained = RetainedOf({1, 2, 3});
  const std::vector<KnownVersion> taken = TakeBeyond(&retained, 1);
  ASSERT_EQ(taken.size(), 2u);
  EXPECT_EQ(taken[0].version->number, 1);
  EXPECT_EQ(taken[1].version->number, 2);
  EXPECT_EQ(retained.front().version->number, 3);
}

ModelSource Source(uint64_t inode) {
  ModelSource source;
  source.weights = SourceFile{.path = "/r/m/model.pth",
                              .resolved_path = "/r/m/model.pth",
                              .fingerprint = {.device = 1, .inode = inode}};
  return source;
}

TEST(RefusalsTest, SourceIsKnownAfterOthersAndAfterARestart) {
  Refusals refusals;
  refusals.Add(Source(1), absl::InvalidArgumentError("bad"));
  refusals.Add(Source(2), absl::DataLossError("torn"));
  const Refusals later(refusals.saved());
  EXPECT_EQ(later.Find(Source(1)), absl::InvalidArgumentError("bad"));
  EXPECT_EQ(later.Find(Source(2)), absl::DataLossError("torn"));
  EXPECT_EQ(later.Find(Source(3)), std::nullopt);
  refusals.Forget(Source(1));
  EXPECT_EQ(refusals.Find(Source(1)), std::nullopt);
}

TEST(RefusalsTest, TheOldestIsForgotten) {
  Refusals refusals;
  for (uint64_t i = 0; i <= SavedModel::kMostRefusals; ++i) {
    refusals.Add(Source(i), absl::InvalidArgumentError("bad"));
  }
  EXPECT_EQ(refusals.saved().size(), SavedModel::kMostRefusals);
  EXPECT_EQ(refusals.Find(Source(0)), std::nullopt);
  EXPECT_NE(refusals.Find(Source(1)), std::nullopt);
}

TEST(VersionRecordsTest, StepsThatAreReportedLateTakeNothingBack) {
  VersionRecords records;
  const auto id = records.Add(1, VersionState::kSeen, "/m", {});
  records.Advance(id, VersionState::kRead, {});
  records.Advance(id, VersionState::kAdmitted, {});
  EXPECT_EQ(records.Find(id)->state, VersionState::kRead);
  records.Set(id, VersionState::kPublished, {});
  records.Advance(id, VersionState::kChecked, {});
  EXPECT_EQ(records.Find(id)->state, VersionState::kPublished);
}

TEST(VersionRecordsTest, WhatIsOverIsForgottenFirst) {
  VersionRecords records;
  const auto live = records.Add(1, VersionState::kPublished, "/m", {});
  for (int64_t i = 2; i < 40; ++i) records.Add(i, VersionState::kRejected, "/m", {});
  EXPECT_EQ(records.list().size(), VersionRecords::kMost);
  ASSERT_NE(records.Find(live), nullptr);
  EXPECT_EQ(records.list().front().number, 1);
  EXPECT_EQ(records.list().back().number, 39);
  EXPECT_EQ(records.counts()[static_cast<size_t>(VersionState::kPublished)], 1);
}

}  // namespace
}  // namespace sconce
