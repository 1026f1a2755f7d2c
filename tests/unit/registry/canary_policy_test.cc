#include "server/registry/canary_policy.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

namespace sconce {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Kind = CanaryVerdict::Kind;

constexpr Duration kDuring = seconds(5);
constexpr Duration kOver = seconds(60);

VersionCounts Counts(int64_t requests, int64_t failed, int64_t non_finite = 0) {
  return {.requests = requests, .failed = failed, .non_finite = non_finite, .by_rows = {}};
}
VersionCounts Timed(std::map<int64_t, VersionCounts::Times> by_rows) {
  return {.requests = 1000, .failed = 0, .non_finite = 0, .by_rows = std::move(by_rows)};
}

Kind Judge(const VersionCounts& live, const VersionCounts& canary, Duration since,
           CanaryConfig config = {}) {
  return JudgeCanary(config, live, canary, since).kind;
}

TEST(CanaryPolicyTest, OneThatDoesWellIsPromotedWhenItsTimeIsOver) {
  EXPECT_EQ(Judge(Counts(900, 0), Counts(100, 0), kDuring), Kind::kGoOn);
  EXPECT_EQ(Judge(Counts(900, 0), Counts(100, 0), kOver), Kind::kPromote);
}

TEST(CanaryPolicyTest, OneThatAnsweredNothingGoesOnWhenItsTimeIsOver) {
  EXPECT_EQ(Judge(Counts(900, 0), {}, kOver), Kind::kGoOn);
  EXPECT_EQ(Judge({}, {}, kOver), Kind::kGoOn) << "nobody asked anything";
}

TEST(CanaryPolicyTest, AFailureWithdrawsItWhereTheOtherHasNone) {
  const CanaryVerdict verdict = JudgeCanary({}, Counts(900, 0), Counts(100, 1), kDuring);
  EXPECT_EQ(verdict.kind, Kind::kWithdraw);
  EXPECT_EQ(verdict.reason,
            "failed 1 of 100 requests, expected a share of at most 0 (the version that serves "
            "failed 0 of 900)");
}

TEST(CanaryPolicyTest, FailuresThatTheOtherHasTooAreNotHeldAgainstIt) {
  EXPECT_EQ(Judge(Counts(9000, 90), Counts(1000, 10), kOver), Kind::kPromote);
  EXPECT_EQ(Judge(Counts(9000, 90), Counts(1000, 15), kOver), Kind::kPromote) << "chance";
  EXPECT_EQ(Judge(Counts(9000, 90), Counts(1000, 30), kDuring), Kind::kWithdraw);
  EXPECT_EQ(Judge(Counts(100, 100), Counts(10, 10), kOver), Kind::kPromote) << "no worse";
}

TEST(CanaryPolicyTest, AShareOfFailuresMayBeAllowed) {
  const CanaryConfig config{.max_error_share = 0.05};
  EXPECT_EQ(Judge(Counts(900, 0), Counts(1, 1), kDuring, config), Kind::kGoOn)
      << "one of one says nothing";
  EXPECT_EQ(Judge(Counts(900, 0), Counts(100, 5), kOver, config), Kind::kPromote);
  EXPECT_EQ(Judge(Counts(900, 0), Counts(100, 20), kDuring, config), Kind::kWithdraw);
}

TEST(CanaryPolicyTest, OutputsThatAreNotFiniteWithdrawItUnlessTheOtherGivesSuchToo) {
  EXPECT_EQ(Judge(Counts(900, 0), Counts(100, 0, 1), kDuring), Kind::kWithdraw);
  EXPECT_EQ(Judge(Counts(900, 0, 1), Counts(100, 0, 1), kOver), Kind::kPromote);
}

TEST(CanaryPolicyTest, TimesAreComparedBySize) {
  // It had the larger batches and is no slower at any size.
  EXPECT_EQ(Judge(Timed({{1, {90, milliseconds(90)}}, {64, {90, milliseconds(900)}}}),
                  Timed({{1, {1, milliseconds(1)}}, {64, {99, milliseconds(990)}}}), kOver),
            Kind::kPromote);
  const CanaryVerdict slow =
      JudgeCanary({}, Timed({{4, {900, milliseconds(900)}}}),
                  Timed({{4, {100, milliseconds(250)}}, {8, {9, seconds(9)}}}), kDuring);
  EXPECT_EQ(slow.kind, Kind::kWithdraw);
  EXPECT_EQ(slow.reason,
            "its batches took 0.25 s, on the version that serves as many of the same sizes take "
            "0.1 s, expected at most 2 times as long");
  EXPECT_EQ(
      Judge(Timed({{4, {900, milliseconds(900)}}}), Timed({{4, {100, milliseconds(199)}}}), kOver),
      Kind::kPromote);
}

TEST(CanaryPolicyTest, AFewBatchesSayNothingOfTimes) {
  EXPECT_EQ(Judge(Timed({{1, {900, milliseconds(900)}}}), Timed({{1, {19, seconds(19)}}}), kDuring),
            Kind::kGoOn);
  EXPECT_EQ(Judge(Timed({{1, {2, milliseconds(2)}}}), Timed({{1, {900, seconds(900)}}}), kDuring),
            Kind::kGoOn);
}

TEST(CanaryTrialTest, CountsBothVersionsAndNoOther) {
  CanaryTrial trial(6, 7);
  trial.RecordBatch(6, 3, 12, milliseconds(2), false);
  trial.RecordBatch(7, 2, 8, milliseconds(3), true);
  trial.RecordBatch(7, 1, 8, milliseconds(4), false);
  trial.RecordFailures(7, 5);
  trial.RecordBatch(5, 100, 8, milliseconds(4), true);
  trial.RecordFailures(5, 100);
  EXPECT_EQ(trial.live().requests, 3);
  EXPECT_EQ(trial.live().failed, 0);
  EXPECT_EQ(trial.live().non_finite, 0);
  EXPECT_EQ(trial.live().by_rows.at(12).batches, 1);
  const VersionCounts canary = trial.canary();
  EXPECT_EQ(canary.requests, 8);
  EXPECT_EQ(canary.failed, 5);
  EXPECT_EQ(canary.non_finite, 1);
  ASSERT_EQ(canary.by_rows.size(), 1u);
  EXPECT_EQ(canary.by_rows.at(8).batches, 2);
  EXPECT_EQ(canary.by_rows.at(8).compute, milliseconds(7));
}

}  // namespace
}  // namespace sconce
