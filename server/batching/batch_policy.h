// Which waiting requests form the next batch, when it is closed, and which requests are given up:
// pure functions of a snapshot.
//
// The rule is work-conserving: a free executor takes everything that waits, in order, up to the
// largest batch; it never waits for more (H. Inoue, arXiv 1912.06322, bounds the mean latency of
// this rule). Where a device can have batches queued up, the next one is closed as late as keeps
// the device busy: what is closed earlier is smaller and is answered no sooner. A request that can
// no longer be answered before its deadline is dropped before it costs anything: under twice the
// load a server can bear, this keeps half of the requests in time, where first-in-first-out keeps
// almost none.

#ifndef SCONCE_SERVER_BATCHING_BATCH_POLICY_H_
#define SCONCE_SERVER_BATCHING_BATCH_POLICY_H_

#include <array>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/types/span.h"
#include "server/base/clock.h"

namespace sconce {

// What the policy sees of a waiting request.
struct WaitingRequest {
  int64_t rows = 1;
  // That it is to be run on, by its place among the limits; beyond them: one that is not there.
  size_t version = 0;
  // Requests share a batch only if their shapes allow it; equal keys say so.
  std::string_view shape_key = {};
  // Where sizes may differ within a batch, because the smaller requests are filled up: these sizes.
  absl::Span<const int64_t> open_sizes = {};
  TimePoint deadline = TimePoint::max();
  bool cancelled = false;
};

class ServiceTimes;

struct BatchLimits {
  // Of the largest batch of the version; a request that is larger goes alone.
  int64_t rows = 1;
  // What fits into the memory of the replica that is to run the batch; 0 where there is none of the
  // version that does. Larger requests are left to other replicas.
  int64_t replica_rows = std::numeric_limits<int64_t>::max();
  // The same of the replica that has most memory; larger requests are given up.
  int64_t any_replica_rows = std::numeric_limits<int64_t>::max();
  // Of the replica; null: nothing is known.
  const ServiceTimes* compute_times = nullptr;
};

// Indices into the snapshot, each in ascending order and in one list at most; the others go on
// waiting.
struct BatchPlan {
  std::vector<size_t> take;
  std::vector<size_t> late;
  std::vector<size_t> cancelled;
  std::vector<size_t> too_large;
  std::vector<size_t> gone;  // their version is not there
  // Of those that are taken.
  size_t version = 0;
  // No further request of its shape can join the batch.
  bool full = false;
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

// What requests of different sizes cost that are run as one batch, in which each row takes as much
// as the largest sizes of any. A value type.
class PaddedBatch {
 public:
  // The most of what is computed that may be filling.
  static constexpr double kMaxPaddedShare = 1.0 / 3;

  // Whether so many rows of these sizes may join: what is filled up stays within kMaxPaddedShare of
  // all. So short requests go along with many long ones, and many short ones wait for no long one,
  // which goes into the next batch. The first always may. They have joined where the answer is yes.
  // REQUIRES: as many sizes as the first had.
  bool Join(int64_t rows, absl::Span<const int64_t> sizes);

 private:
  // As numbers that cannot overflow.
  double rows_ = 0;
  double wanted_ = 0;
  absl::InlinedVector<int64_t, 4> largest_;
};

// The next batch out of `waiting`, which is in order of arrival: the first request that is neither
// cancelled nor late, and that the replica can take, sets version and shape; after it every request
// of both that still fits, until one does not, so that a large request is never overtaken for ever.
// One that would have to be padded too much, or that would make others be, is left to a later
// batch, as one of another shape is: the oldest is always in the next.
// `limits` are those of the versions that answer; `start` is when the batch can begin to be
// computed, after what the device has under way.
BatchPlan PlanBatch(absl::Span<const WaitingRequest> waiting, TimePoint now, TimePoint start,
                    absl::Span<const BatchLimits> limits);

// An executor that is to know what to do next.
struct ExecutorSituation {
  // Batches under way, and how many may be.
  int under_way = 0;
  int depth = 1;
  // Requests wait that it is this executor's turn to take, and whether they fill a batch.
  bool work = false;
  bool full = false;
  // When the first and the last batch under way are expected to end.
  TimePoint first_end{};
  TimePoint last_end{};
  // What assembling the next batch takes at least.
  Duration assembling{};
};

enum class ExecutorStep {
  kRest,    // until `until` or until something changes
  kClose,   // the next batch
  kFinish,  // wait for the first batch under way
};

struct NextStep {
  ExecutorStep step = ExecutorStep::kRest;
  TimePoint until = TimePoint::max();
};

// With nothing under way, whatever waits is closed at once. With a batch under way and room for
// another, that one is closed when it is full, or when the last one is expected to end within the
// time that assembling takes; with no recent figure, at once.
NextStep DecideStep(const ExecutorSituation& situation, TimePoint now);

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_BATCH_POLICY_H_
