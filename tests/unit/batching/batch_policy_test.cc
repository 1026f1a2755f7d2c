#include "server/batching/batch_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>

namespace sconce {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Indices = std::vector<size_t>;

const TimePoint kNow = TimePoint(seconds(1000));

WaitingRequest Rows(int64_t rows) { return {.rows = rows}; }

// Of one version.
BatchPlan Plan(absl::Span<const WaitingRequest> waiting, TimePoint now, const BatchLimits& limits,
               TimePoint start = {}) {
  return PlanBatch(waiting, now, start, {&limits, 1});
}

TEST(BatchPolicyTest, TakesAllThatWaitsUpToTheLargestBatch) {
  const WaitingRequest waiting[] = {Rows(1), Rows(1), Rows(1)};
  EXPECT_EQ(Plan(waiting, kNow, {.rows = 8}).take, (Indices{0, 1, 2}));
  EXPECT_EQ(Plan(waiting, kNow, {.rows = 2}).take, (Indices{0, 1}));
}

TEST(BatchPolicyTest, DoesNotWaitForMore) {
  const WaitingRequest waiting[] = {Rows(1)};
  EXPECT_EQ(Plan(waiting, kNow, {.rows = 64}).take, (Indices{0}));
}

TEST(BatchPolicyTest, ALargeRequestIsNotOvertaken) {
  const WaitingRequest waiting[] = {Rows(3), Rows(4), Rows(1)};
  EXPECT_EQ(Plan(waiting, kNow, {.rows = 4}).take, (Indices{0}));
}

TEST(BatchPolicyTest, ARequestLargerThanTheBatchGoesAlone) {
  // It was accepted under a configuration that allowed it; the batcher answers it.
  const WaitingRequest waiting[] = {Rows(9), Rows(1)};
  EXPECT_EQ(Plan(waiting, kNow, {.rows = 4}).take, (Indices{0}));
}

TEST(BatchPolicyTest, OnlyEqualShapesShareABatch) {
  const WaitingRequest waiting[] = {
      {.rows = 1, .shape_key = "a"}, {.rows = 1, .shape_key = "b"}, {.rows = 1, .shape_key = "a"}};
  EXPECT_EQ(Plan(waiting, kNow, {.rows = 8}).take, (Indices{0, 2}));
}

TEST(BatchPolicyTest, WhatIsFilledUpIsBoundedByAThirdOfWhatIsComputed) {
  struct Asked {
    std::vector<int64_t> sizes;
    int64_t rows = 1;
    bool joins = true;
  };
  const std::vector<std::vector<Asked>> batches = {
      // Equal ones cost nothing.
      {{{8}}, {{8}}, {{8}, 64}},
      // A third of 24 is 8.
      {{{8}}, {{12}, 1, true}, {{24}, 1, false}, {{16}, 1, true}},
      {{{512}}, {{8}, 1, false}},
      {{{8}}, {{512}, 1, false}, {{9}, 1, true}},
      // Many short ones do not become long for the sake of one, ...
      {{{10}, 30}, {{16}, 1, false}},
      // ... but one that is short goes along with the long ones.
      {{{512}, 3}, {{8}, 1, true}, {{8}, 1, false}},
      {{{512}}, {{512}}, {{8}, 1, true}},
      // Each dimension is as large as the largest of any.
      {{{10, 20}}, {{20, 10}, 1, false}, {{10, 24}, 1, true}},
      // What has no elements costs what the others make of it.
      {{{0}}, {{0}}, {{1}, 1, false}},
      {{{int64_t{1} << 62}},
       {{
            1,
        },
        1,
        false}},
  };
  for (size_t b = 0; b < batches.size(); ++b) {
    PaddedBatch batch;
    for (size_t i = 0; i < batches[b].size(); ++i) {
      const Asked& asked = batches[b][i];
      EXPECT_EQ(batch.Join(asked.rows, asked.sizes), asked.joins) << "batch " << b << ", " << i;
    }
  }
}

TEST(BatchPolicyTest, TheOldestIsAlwaysTakenAndWhoeverWouldPadTooMuchComesLater) {
  const int64_t tiny[] = {8}, small[] = {10}, large[] = {512};
  const auto of = [](absl::Span<const int64_t> sizes) {
    return WaitingRequest{.rows = 1, .shape_key = "k", .open_sizes = sizes};
  };
  const WaitingRequest waiting[] = {of(small), of(large), of(tiny), of(large), of(small)};
  const BatchPlan first = Plan(waiting, kNow, {.rows = 3});
  EXPECT_EQ(first.take, (Indices{0, 2, 4}));
  EXPECT_TRUE(first.full);
  const WaitingRequest left[] = {of(large), of(large)};
  EXPECT_EQ(Plan(left, kNow, {.rows = 3}).take, (Indices{0, 1}));
}

TEST(BatchPolicyTest, CancelledAndLateRequestsAreGivenUpBeforeTheyCostAnything) {
  ServiceTimes times;
  times.Record(1, milliseconds(10), kNow);
  const WaitingRequest waiting[] = {{.rows = 1, .cancelled = true},
                                    {.rows = 1, .deadline = kNow + milliseconds(9)},
                                    {.rows = 1, .deadline = kNow + milliseconds(11)},
                                    {.rows = 1}};
  const BatchPlan plan = Plan(waiting, kNow, {.rows = 8, .compute_times = &times});
  EXPECT_EQ(plan.cancelled, (Indices{0}));
  EXPECT_EQ(plan.late, (Indices{1}));
  EXPECT_EQ(plan.take, (Indices{2, 3}));
}

TEST(BatchPolicyTest, WithoutAFigureOnlyPassedDeadlinesAreLate) {
  const WaitingRequest waiting[] = {{.rows = 1, .deadline = kNow - milliseconds(1)},
                                    {.rows = 1, .deadline = kNow + milliseconds(1)}};
  const BatchPlan plan = Plan(waiting, kNow, {.rows = 8});
  EXPECT_EQ(plan.late, (Indices{0}));
  EXPECT_EQ(plan.take, (Indices{1}));
}

TEST(BatchPolicyTest, ABatchBehindAnotherIsLateByWhatThatStillTakes) {
  ServiceTimes times;
  times.Record(1, milliseconds(10), kNow);
  const WaitingRequest waiting[] = {{.rows = 1, .deadline = kNow + milliseconds(14)},
                                    {.rows = 1, .deadline = kNow + milliseconds(16)}};
  const BatchPlan plan =
      Plan(waiting, kNow, {.rows = 8, .compute_times = &times}, kNow + milliseconds(5));
  EXPECT_EQ(plan.late, (Indices{0}));
  EXPECT_EQ(plan.take, (Indices{1}));
}

TEST(BatchPolicyTest, WhatDoesNotFitTheReplicaIsLeftToOthersOrGivenUp) {
  const WaitingRequest waiting[] = {Rows(6), Rows(3), Rows(9), Rows(1)};
  const BatchPlan plan =
      Plan(waiting, kNow, {.rows = 64, .replica_rows = 4, .any_replica_rows = 8});
  EXPECT_EQ(plan.take, (Indices{1, 3}));
  EXPECT_EQ(plan.too_large, (Indices{2}));
  EXPECT_TRUE(plan.full);
}

TEST(BatchPolicyTest, OnlyRequestsOfOneVersionShareABatchAndTheOldestSaysOfWhich) {
  const BatchLimits limits[] = {{.rows = 8}, {.rows = 2}};
  const WaitingRequest waiting[] = {{.rows = 1, .version = 1},
                                    {.rows = 1, .version = 0},
                                    {.rows = 1, .version = 1},
                                    {.rows = 1, .version = 1},
                                    {.rows = 1, .version = 0}};
  const BatchPlan first = PlanBatch(waiting, kNow, {}, limits);
  EXPECT_EQ(first.take, (Indices{0, 2}));
  EXPECT_EQ(first.version, 1u);
  EXPECT_TRUE(first.full) << "by that version's largest batch";
  const BatchPlan second = PlanBatch(absl::MakeSpan(waiting).subspan(1), kNow, {}, limits);
  EXPECT_EQ(second.take, (Indices{0, 3}));
  EXPECT_EQ(second.version, 0u);
  EXPECT_FALSE(second.full);
}

TEST(BatchPolicyTest, AVersionThatTheReplicaDoesNotRunHoldsNobodyUp) {
  const BatchLimits limits[] = {{.rows = 8}, {.rows = 8, .replica_rows = 0}};
  const WaitingRequest waiting[] = {{.rows = 1, .version = 1}, {.rows = 1, .version = 0}};
  const BatchPlan plan = PlanBatch(waiting, kNow, {}, limits);
  EXPECT_EQ(plan.take, (Indices{1}));
  EXPECT_TRUE(plan.too_large.empty());
}

TEST(BatchPolicyTest, RequestsOfAVersionThatIsNotThereAreGivenUp) {
  const BatchLimits limits[] = {{.rows = 8}};
  const WaitingRequest waiting[] = {{.rows = 1, .version = 1}, {.rows = 1, .version = 0}};
  const BatchPlan plan = PlanBatch(waiting, kNow, {}, limits);
  EXPECT_EQ(plan.gone, (Indices{0}));
  EXPECT_EQ(plan.take, (Indices{1}));
}

TEST(BatchPolicyTest, EachVersionHasTimesOfItsOwn) {
  ServiceTimes slow, fast;
  slow.Record(1, seconds(1), kNow);
  fast.Record(1, milliseconds(1), kNow);
  const BatchLimits limits[] = {{.rows = 8, .compute_times = &slow},
                                {.rows = 8, .compute_times = &fast}};
  const TimePoint deadline = kNow + milliseconds(100);
  const WaitingRequest waiting[] = {{.rows = 1, .version = 0, .deadline = deadline},
                                    {.rows = 1, .version = 1, .deadline = deadline}};
  const BatchPlan plan = PlanBatch(waiting, kNow, {}, limits);
  EXPECT_EQ(plan.late, (Indices{0}));
  EXPECT_EQ(plan.take, (Indices{1}));
}

TEST(BatchPolicyTest, WhatAnotherReplicaIsToTakeIsLateOnlyWhenItsDeadlineHasPassed) {
  const WaitingRequest waiting[] = {{.rows = 6, .deadline = kNow + milliseconds(1)},
                                    {.rows = 6, .deadline = kNow - milliseconds(1)}};
  const BatchPlan plan =
      Plan(waiting, kNow, {.rows = 8, .replica_rows = 4}, kNow + milliseconds(500));
  EXPECT_EQ(plan.late, (Indices{1}));
}

TEST(BatchPolicyTest, ABatchIsFullWhenNothingMoreOfItsShapeFits) {
  const auto full = [](std::vector<WaitingRequest> waiting) {
    return Plan(waiting, kNow, {.rows = 4}).full;
  };
  EXPECT_FALSE(full({Rows(1), Rows(2)}));
  EXPECT_TRUE(full({Rows(1), Rows(3)}));
  EXPECT_TRUE(full({Rows(3), Rows(2)}));
  EXPECT_FALSE(full({{.rows = 3, .shape_key = "a"}, {.rows = 3, .shape_key = "b"}}));
}

// What an executor with a batch under way, which ends in 10 ms, is to do; the next takes 1 ms to
// assemble.
class ExecutorStepTest : public ::testing::Test {
 protected:
  ExecutorStep At(Duration since) { return DecideStep(situation_, kNow + since).step; }

  ExecutorSituation situation_{.under_way = 1,
                               .depth = 2,
                               .work = true,
                               .full = false,
                               .first_end = kNow + milliseconds(10),
                               .last_end = kNow + milliseconds(10),
                               .assembling = milliseconds(1)};
};

TEST_F(ExecutorStepTest, WithNothingUnderWayWhateverWaitsIsClosed) {
  situation_.under_way = 0;
  EXPECT_EQ(At({}), ExecutorStep::kClose);
  situation_.work = false;
  EXPECT_EQ(At({}), ExecutorStep::kRest);
  EXPECT_EQ(DecideStep(situation_, kNow).until, TimePoint::max());
}

TEST_F(ExecutorStepTest, TheNextBatchIsClosedWhenAssemblingItTakesUntilTheDeviceIsFree) {
  EXPECT_EQ(At(milliseconds(8)), ExecutorStep::kRest);
  const TimePoint until = DecideStep(situation_, kNow).until;
  EXPECT_LE(until, kNow + milliseconds(9));
  EXPECT_GT(until, kNow + milliseconds(8));
  EXPECT_EQ(DecideStep(situation_, until).step, ExecutorStep::kClose);
}

TEST_F(ExecutorStepTest, AFullBatchIsClosedAtOnce) {
  situation_.full = true;
  EXPECT_EQ(At({}), ExecutorStep::kClose);
}

TEST_F(ExecutorStepTest, WithoutAFigureWhatWaitsIsClosedAtOnce) {
  situation_.first_end = situation_.last_end = kNow;
  EXPECT_EQ(At({}), ExecutorStep::kClose);
}

TEST_F(ExecutorStepTest, WithNothingToCloseTheBatchUnderWayIsWaitedForInTime) {
  situation_.work = false;
  EXPECT_EQ(At(milliseconds(8)), ExecutorStep::kRest) << "something may come";
  EXPECT_EQ(At(milliseconds(9)), ExecutorStep::kFinish);
}

TEST_F(ExecutorStepTest, NothingIsClosedWhileAsManyAreUnderWayAsMayBe) {
  situation_.full = true;
  situation_.under_way = 2;
  EXPECT_EQ(At({}), ExecutorStep::kFinish);
  situation_.under_way = situation_.depth = 1;
  EXPECT_EQ(At({}), ExecutorStep::kFinish);
}

TEST_F(ExecutorStepTest, TheFirstBatchIsAnsweredBeforeTheLastOneEnds) {
  situation_.under_way = 2;
  situation_.depth = 3;
  situation_.last_end = kNow + milliseconds(20);
  EXPECT_EQ(At(milliseconds(9)), ExecutorStep::kRest);
  EXPECT_EQ(DecideStep(situation_, kNow).until, situation_.first_end);
  EXPECT_EQ(At(milliseconds(10)), ExecutorStep::kFinish);
}

TEST(ServiceTimesTest, AnswersTheShortestRecentTime) {
  ServiceTimes times;
  times.Record(8, milliseconds(50), kNow);
  times.Record(8, milliseconds(20), kNow);
  times.Record(8, milliseconds(90), kNow);
  EXPECT_EQ(times.LeastFor(8, kNow), milliseconds(20));
  EXPECT_EQ(times.LeastFor(15, kNow), milliseconds(20)) << "same power of two";
  EXPECT_EQ(times.LeastFor(64, kNow), milliseconds(20)) << "a lower bound for larger batches";
  EXPECT_EQ(times.LeastFor(4, kNow), Duration::zero()) << "nothing known of smaller ones";
}

TEST(ServiceTimesTest, ForgetsSoThatASlowMomentDoesNotRefuseForEver) {
  ServiceTimes times;
  times.Record(1, seconds(3), kNow);
  EXPECT_EQ(times.LeastFor(1, kNow + milliseconds(999)), seconds(3));
  EXPECT_EQ(times.LeastFor(1, kNow + milliseconds(1001)), Duration::zero());
  for (int i = 0; i < 8; ++i) times.Record(1, milliseconds(5), kNow);
  EXPECT_EQ(times.LeastFor(1, kNow), milliseconds(5));
}

// Twice the load the server can bear, deadlines of ten batches: early drop keeps close to half of
// the requests in time; without it nearly all would be late.
TEST(BatchPolicyTest, UnderOverloadHalfOfTheRequestsAreAnsweredInTime) {
  const Duration service = milliseconds(10);
  const int64_t per_batch = 4;
  std::vector<WaitingRequest> waiting;
  ServiceTimes times;
  int answered_in_time = 0, sent = 0;
  for (int step = 0; step < 500; ++step) {
    const TimePoint now = kNow + service * step;
    for (int i = 0; i < 2 * per_batch; ++i, ++sent) {
      waiting.push_back({.rows = 1, .deadline = now + 10 * service});
    }
    const BatchPlan plan = Plan(waiting, now, {.rows = per_batch, .compute_times = &times});
    for (const size_t i : plan.take) {
      if (waiting[i].deadline >= now + service) ++answered_in_time;
    }
    times.Record(per_batch, service, now + service);
    times.Record(1, service, now + service);
    std::vector<WaitingRequest> kept;
    for (size_t i = 0; i < waiting.size(); ++i) {
      const bool gone = std::count(plan.take.begin(), plan.take.end(), i) +
                            std::count(plan.late.begin(), plan.late.end(), i) >
                        0;
      if (!gone) kept.push_back(waiting[i]);
    }
    waiting.swap(kept);
  }
  EXPECT_GT(answered_in_time, 0.49 * sent);
}

}  // namespace
}  // namespace sconce
