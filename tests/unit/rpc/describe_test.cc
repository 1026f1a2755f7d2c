#include "server/rpc/describe.h"

#include <gtest/gtest.h>

#include "tests/support/fake_replica.h"

namespace sconce {
namespace {

TEST(DescribeTest, MetadataHasTheBatchDimensionAndTheWeights) {
  const auto version = MakeFakeVersion("m", 7, {}, {3, -1});
  const auto metadata = DescribeMetadata(*version, {7});
  EXPECT_EQ(metadata.name(), "m");
  ASSERT_EQ(metadata.versions_size(), 1);
  EXPECT_EQ(metadata.versions(0), "7");
  const auto& shape = metadata.inputs(0).shape();
  EXPECT_EQ(std::vector<int64_t>(shape.begin(), shape.end()), (std::vector<int64_t>{-1, 3, -1}));
  EXPECT_EQ(metadata.outputs(0).datatype(), "FP32");
  EXPECT_EQ(metadata.properties().at("weights_id"), "id7");
  EXPECT_EQ(metadata.properties().at("architecture"), "affine");
}

TEST(DescribeTest, ConfigHasNoBatchDimension) {
  const auto version = MakeFakeVersion("m", 7, {}, {3, -1}, 2);
  version->config.max_batch_size = 32;
  version->config.max_queue_size = 5;
  version->weights_path = "/models/m/weights.pth";
  const auto config = DescribeConfig(*version);
  EXPECT_EQ(config.max_batch_size(), 32);
  EXPECT_EQ(config.input(0).dims_size(), 2);
  EXPECT_EQ(config.input(0).data_type(), inference::TYPE_FP32);
  EXPECT_EQ(config.default_model_filename(), "weights.pth");
  EXPECT_EQ(config.dynamic_batching().default_queue_policy().max_queue_size(), 5u);
  ASSERT_EQ(config.instance_group_size(), 1);
  EXPECT_EQ(config.instance_group(0).count(), 2);
  EXPECT_EQ(config.instance_group(0).kind(), inference::ModelInstanceGroup::KIND_CPU);
}

TEST(DescribeTest, InputsThatMayBeLeftOutAndTheNetworksLargestBatchAreTold) {
  const auto version = MakeFakeVersion("m", 7, {}, {-1});
  version->signature.inputs.push_back(version->signature.inputs[0]);
  version->signature.inputs[1].rules.absent = 1;
  version->signature.rows.rows.maximum = 8;
  const auto config = DescribeConfig(*version);
  EXPECT_FALSE(config.input(0).optional());
  EXPECT_TRUE(config.input(1).optional());
  EXPECT_EQ(config.max_batch_size(), 8);
}

TEST(DescribeTest, WithoutABatchDimensionTheShapeIsTheDims) {
  const auto version = MakeFakeVersion("m", 7, {}, {3, -1});
  version->signature.rows.batched = false;
  EXPECT_EQ(DescribeConfig(*version).max_batch_size(), 0);
  const auto metadata = DescribeMetadata(*version, {7});
  const auto& shape = metadata.outputs(0).shape();
  EXPECT_EQ(std::vector<int64_t>(shape.begin(), shape.end()), (std::vector<int64_t>{3, -1}));
}

TEST(DescribeTest, StatisticsAreWhatWasCounted) {
  ModelStatistics counted;
  const Duration queued[] = {std::chrono::nanoseconds(10), std::chrono::nanoseconds(20)};
  const Duration total[] = {std::chrono::nanoseconds(100), std::chrono::nanoseconds(200)};
  counted.RecordBatch({3, std::chrono::nanoseconds(1), std::chrono::nanoseconds(2),
                       std::chrono::nanoseconds(3), queued, total});
  counted.RecordFailure(std::chrono::nanoseconds(5));
  const auto statistics = DescribeStatistics("m", 4, counted.Snapshot());
  EXPECT_EQ(statistics.name(), "m");
  EXPECT_EQ(statistics.version(), "4");
  EXPECT_EQ(statistics.inference_count(), 3u);
  EXPECT_EQ(statistics.execution_count(), 1u);
  EXPECT_GT(statistics.last_inference(), 1500000000000u);
  const auto& sums = statistics.inference_stats();
  EXPECT_EQ(sums.success().count(), 2u);
  EXPECT_EQ(sums.success().ns(), 300u);
  EXPECT_EQ(sums.fail().count(), 1u);
  EXPECT_EQ(sums.queue().count(), 2u);
  EXPECT_EQ(sums.queue().ns(), 30u);
  EXPECT_EQ(sums.compute_input().count(), sums.compute_infer().count());
  EXPECT_EQ(sums.compute_infer().count(), sums.compute_output().count());
  ASSERT_EQ(statistics.batch_stats_size(), 1);
  EXPECT_EQ(statistics.batch_stats(0).batch_size(), 3u);
}

TEST(DescribeTest, ReasonsOfTheIndexAreUtf8) {
  IndexedModel model;
  model.name = "m";
  model.serving.live = MakeFakeVersion("m", 7, {});
  model.progress = {true, "file is garbage \xff"};
  const auto entries = DescribeIndex(model, false);
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].state(), "READY");
  EXPECT_EQ(entries[0].version(), "7");
  EXPECT_EQ(entries[0].reason(), "file is garbage \\xff");
}

}  // namespace
}  // namespace sconce
