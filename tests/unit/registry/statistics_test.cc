#include "server/registry/model_statistics.h"

#include <gtest/gtest.h>

namespace sconce {
namespace {

using std::chrono::milliseconds;

TEST(ModelStatisticsTest, CountsRequestsRowsAndBatches) {
  ModelStatistics statistics;
  const Duration queued[] = {milliseconds(1), milliseconds(2)};
  const Duration total[] = {milliseconds(10), milliseconds(12)};
  statistics.RecordBatch(
      {5, milliseconds(1), milliseconds(6), milliseconds(2), queued, total});
  statistics.RecordFailure(milliseconds(4));

  const StatisticsSnapshot counts = statistics.Snapshot();
  EXPECT_EQ(counts.inference_count, 5u);
  EXPECT_EQ(counts.execution_count, 1u);
  EXPECT_EQ(counts.success.count, 2u);
  EXPECT_EQ(counts.success.total, milliseconds(22));
  EXPECT_EQ(counts.queue.total, milliseconds(3));
  EXPECT_EQ(counts.fail.count, 1u);
  EXPECT_EQ(counts.fail.total, milliseconds(4));
  // Clients require these three to be equal.
  EXPECT_EQ(counts.compute_input.count, 2u);
  EXPECT_EQ(counts.compute_infer.count, 2u);
  EXPECT_EQ(counts.compute_output.count, 2u);
  EXPECT_EQ(counts.compute_infer.total, milliseconds(12));
  ASSERT_EQ(counts.by_batch_rows.size(), 1u);
  EXPECT_EQ(counts.by_batch_rows.at(5).compute_infer.count, 1u);
}

}  // namespace
}  // namespace sconce
