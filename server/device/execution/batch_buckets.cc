#include "server/device/execution/batch_buckets.h"

#include <algorithm>

namespace sconce {

std::vector<int64_t> BatchBuckets(int64_t most_rows, int64_t least_rows) {
  most_rows = std::max(most_rows, least_rows);
  std::vector<int64_t> buckets;
  for (int64_t rows = least_rows; rows < most_rows; rows *= 2) {
    buckets.push_back(rows);
    if (rows > most_rows / 2) break;  // twice that may be no number
  }
  buckets.push_back(most_rows);
  return buckets;
}

int BucketFor(const std::vector<int64_t>& buckets, int64_t rows) {
  const auto bucket = std::lower_bound(buckets.begin(), buckets.end(), rows);
  return bucket == buckets.end() ? -1 : static_cast<int>(bucket - buckets.begin());
}

}  // namespace sconce
