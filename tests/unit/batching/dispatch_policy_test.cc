#include "server/batching/dispatch_policy.h"

#include <gtest/gtest.h>

#include <chrono>
#include <vector>

namespace sconce {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const TimePoint kStart = TimePoint(seconds(1000));

ExecutorLoad Idle(int device) { return {.device = device, .available = true}; }
ExecutorLoad Busy(int device, int64_t rows, Duration left) {
  return {.device = device, .under_way = 1, .rows = rows, .expected_end = kStart + left};
}
// Has a batch under way and could have another.
ExecutorLoad Deep(int device, int64_t rows, Duration left) {
  ExecutorLoad load = Busy(device, rows, left);
  load.available = true;
  return load;
}

// Each has a replica on its device.
std::optional<size_t> Next(const std::vector<ExecutorLoad>& executors) {
  std::vector<ReplicaPlace> places;
  for (const ExecutorLoad& load : executors) {
    places.push_back({.usable = true, .device = load.device, .max_rows = 64});
  }
  return NextExecutor(executors, places, 1, kStart);
}

TEST(DispatchPolicyTest, NobodyTakesABatchWhileAllAreBusy) {
  EXPECT_EQ(Next({}), std::nullopt);
  EXPECT_EQ(Next({Busy(0, 1, seconds(1)), Busy(1, 1, seconds(1))}), std::nullopt);
  EXPECT_EQ(Next({Busy(0, 1, seconds(1)), Idle(1)}), 1u);
}

TEST(DispatchPolicyTest, AnIdleExecutorComesBeforeOneWithABatchUnderWay) {
  EXPECT_EQ(Next({Deep(0, 1, milliseconds(1)), Idle(1)}), 1u);
  EXPECT_EQ(Next({Deep(0, 1, milliseconds(1)), Idle(1), Busy(1, 64, seconds(9))}), 1u)
      << "even where its device has more to do";
}

TEST(DispatchPolicyTest, OfSeveralTheOneWhoseDeviceHasLeastUnderWay) {
  EXPECT_EQ(Next({Idle(0), Idle(1), Busy(0, 1, seconds(1))}), 1u) << "a sibling is busy";
  EXPECT_EQ(Next({Deep(0, 1, milliseconds(9)), Deep(1, 64, milliseconds(3))}), 1u) << "free sooner";
  EXPECT_EQ(Next({Deep(0, 8, milliseconds(3)), Deep(1, 4, milliseconds(3))}), 1u) << "fewer rows";
  EXPECT_EQ(Next({Deep(0, 8, -seconds(5)), Deep(1, 4, -seconds(1))}), 1u)
      << "nothing is known of overdue ones but their rows";
  EXPECT_EQ(Next({Idle(0), Idle(1)}), 0u) << "the first of equals";
}

TEST(DispatchPolicyTest, OneThatLooksSoonComesAfterOneThatWaitsAndBeforeOneThatIsBusy) {
  ExecutorLoad soon = Idle(0);
  soon.looks_soon = true;
  EXPECT_EQ(Next({soon, Idle(1)}), 1u);
  EXPECT_EQ(Next({Deep(1, 1, milliseconds(1)), soon}), 1u);
}

TEST(DispatchPolicyTest, WorkOfAllExecutorsOfADeviceCounts) {
  EXPECT_EQ(Next({Idle(0), Idle(1), Busy(0, 3, milliseconds(3)), Busy(1, 2, milliseconds(3)),
                  Busy(1, 2, milliseconds(3))}),
            0u);
}

TEST(DispatchPolicyTest, ARequestGoesOnlyWhereItFits) {
  const ExecutorLoad executors[] = {Idle(0), Deep(1, 64, seconds(9))};
  const ReplicaPlace places[] = {{.usable = true, .device = 0, .max_rows = 4},
                                 {.usable = true, .device = 1, .max_rows = 16}};
  EXPECT_EQ(NextExecutor(executors, places, 4, kStart), 0u);
  EXPECT_EQ(NextExecutor(executors, places, 5, kStart), 1u);
  EXPECT_EQ(NextExecutor(executors, places, 17, kStart), std::nullopt);
}

TEST(DispatchPolicyTest, ARequestGoesOnlyWhereItsVersionHasAReplicaThatWorks) {
  const ExecutorLoad executors[] = {Idle(0), Idle(1), Idle(2)};
  const ReplicaPlace places[] = {{.usable = false, .device = 0, .max_rows = 64},
                                 {.usable = true, .device = 1, .max_rows = 64}};
  EXPECT_EQ(NextExecutor(executors, places, 1, kStart), 1u);
  EXPECT_EQ(NextExecutor(executors, absl::MakeSpan(places).subspan(0, 1), 1, kStart), std::nullopt)
      << "the version has fewer replicas than there are executors";
}

TEST(DispatchPolicyTest, TheReplicasDeviceCountsNotThatOfTheBatchesBefore) {
  // The second executor ran on device 0 before; its replica of this version is on device 1.
  const ExecutorLoad executors[] = {Idle(0), Idle(0), Busy(0, 8, seconds(1))};
  const ReplicaPlace places[] = {{.usable = true, .device = 0, .max_rows = 64},
                                 {.usable = true, .device = 1, .max_rows = 64},
                                 {.usable = true, .device = 0, .max_rows = 64}};
  EXPECT_EQ(NextExecutor(executors, places, 1, kStart), 1u);
}

}  // namespace
}  // namespace sconce
