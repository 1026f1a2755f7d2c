// Which waiting requests form the next batch, and which are given up: pure functions of a snapshot.
//
// The rule is work-conserving: a free executor takes everything that waits, in order, up to the
// largest batch; it never waits for more (H. Inoue, arXiv 1912.06322, bounds the mean latency of
// this rule). A request that can no longer be answered before its deadline is dropped before it
// costs anything: under twice the load a server can bear, this keeps half of the requests in time,
// where first-in-first-out keeps almost none.

#ifndef SCONCE_SERVER_BATCHING_BATCH_POLICY_H_
#define SCONCE_SERVER_BATCHING_BATCH_POLICY_H_

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "server/base/clock.h"

namespace sconce {

// What the policy sees of a waiting request.
struct WaitingRequest {
  int64_t rows = 1;
  // Requests share a batch only if all dimensions but the first are equal; equal keys say so.
  std::string_view shape_key = {};
  TimePoint deadline = TimePoint::max();
  bool cancelled = false;
};

// Indices into the snapshot, each in ascending order and in one list at most; the others go on
// waiting.
struct BatchPlan {
  std::vector<size_t> take;
  std::vector<size_t> late;
  std::vector<size_t> cancelled;
};

// Seconds that batches took lately, by size. Knows only what it was told: with no recent figure it
// answers zero, so that nobody is dropped on a guess. Not thread-safe.
class ServiceTimes {
 public:
  void Record(int64_t rows, Duration took, TimePoint now);

  // The shortest time a batch of at least `rows` rows took in the last few runs; zero where none
  // ran within the last second. The shortest, because dropping a request that would have been in
  // time is worse than running one that is late.
  Duration LeastFor(int64_t rows, TimePoint now) const;

 private:
  static constexpr size_t kBuckets = 16;  // by powers of two
  static constexpr size_t kKept = 8;
  struct Bucket {
    std::array<Duration, kKept> last{};
    size_t count = 0;
    TimePoint newest{};
  };
  std::array<Bucket, kBuckets> buckets_{};
};

// The next batch out of `waiting`, which is in order of arrival: the first request that is neither
// cancelled nor late sets the shape; after it every request of that shape that still fits into
// `max_rows` rows, until one does not fit, so that a large request is never overtaken for ever.
BatchPlan PlanBatch(absl::Span<const WaitingRequest> waiting, TimePoint now, int64_t max_rows,
                    const ServiceTimes& service_times);

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_BATCH_POLICY_H_
