// The batch sizes for which a replica is prepared: a batch of any other size is run as the next
// larger one. Pure functions, free of torch.

#ifndef SCONCE_SERVER_DEVICE_EXECUTION_BATCH_BUCKETS_H_
#define SCONCE_SERVER_DEVICE_EXECUTION_BATCH_BUCKETS_H_

#include <cstdint>
#include <vector>

namespace sconce {

// The least number of rows that the network takes, twice that, ... and `most_rows`, rising; no more
// than the first where that is no less than `most_rows`. REQUIRES: both are at least 1.
std::vector<int64_t> BatchBuckets(int64_t most_rows, int64_t least_rows = 1);

// The index of the smallest of `buckets`, which rise, that holds `rows`; -1 where none does.
int BucketFor(const std::vector<int64_t>& buckets, int64_t rows);

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_EXECUTION_BATCH_BUCKETS_H_
