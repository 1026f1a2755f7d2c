#include "server/device/execution/batch_buckets.h"

#include <gmock/gmock.h>

#include <limits>

namespace sconce {
namespace {

using testing::ElementsAre;

TEST(BatchBuckets, DoubleUpToTheLargestBatch) {
  EXPECT_THAT(BatchBuckets(1), ElementsAre(1));
  EXPECT_THAT(BatchBuckets(2), ElementsAre(1, 2));
  EXPECT_THAT(BatchBuckets(8), ElementsAre(1, 2, 4, 8));
  EXPECT_THAT(BatchBuckets(48), ElementsAre(1, 2, 4, 8, 16, 32, 48));
  EXPECT_THAT(BatchBuckets(20, 3), ElementsAre(3, 6, 12, 20));
  EXPECT_THAT(BatchBuckets(4, 8), ElementsAre(8));
  const auto most = BatchBuckets(std::numeric_limits<int64_t>::max());
  EXPECT_EQ(most.size(), 64u);
  EXPECT_EQ(most.back(), std::numeric_limits<int64_t>::max());
}

TEST(BatchBuckets, ABatchGoesIntoTheSmallestThatHoldsIt) {
  const std::vector<int64_t> buckets = BatchBuckets(48);
  EXPECT_EQ(BucketFor(buckets, 1), 0);
  EXPECT_EQ(BucketFor(buckets, 3), 2);
  EXPECT_EQ(BucketFor(buckets, 4), 2);
  EXPECT_EQ(BucketFor(buckets, 33), 6);
  EXPECT_EQ(BucketFor(buckets, 48), 6);
  EXPECT_EQ(BucketFor(buckets, 49), -1);
}

}  // namespace
}  // namespace sconce
