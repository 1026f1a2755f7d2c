#include "server/batching/batch_policy.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <utility>

namespace sconce {
namespace {

constexpr Duration kStaleAfter = std::chrono::seconds(1);

// Linux wakes a thread up to 50 us after the moment that it asked for.
constexpr Duration kTimerSlack = std::chrono::microseconds(50);

size_t BucketOf(int64_t rows, size_t buckets) {
  const auto width = static_cast<size_t>(std::bit_width(static_cast<uint64_t>(rows)));
  return std::min(width, buckets) - 1;
}

}  // namespace

void ServiceTimes::Record(int64_t rows, Duration took, TimePoint now) {
  Bucket& bucket = buckets_[BucketOf(std::max<int64_t>(rows, 1), kBuckets)];
  bucket.last[bucket.count++ % kKept] = took;
  bucket.newest = now;
}

Duration ServiceTimes::LeastFor(int64_t rows, TimePoint now) const {
  // A larger batch takes at least as long, so the smallest bucket with a figure decides; a smaller
  // one is a lower bound too, where no batch of this size ran.
  Duration least = Duration::zero();
  const size_t wanted = BucketOf(std::max<int64_t>(rows, 1), kBuckets);
  for (size_t i = 0; i <= wanted; ++i) {
    const Bucket& bucket = buckets_[i];
    if (bucket.count == 0 || now - bucket.newest > kStaleAfter) continue;
    const size_t n = std::min(bucket.count, kKept);
    least = *std::min_element(bucket.last.begin(), bucket.last.begin() + n);
  }
  return least;
}

bool PaddedBatch::Join(int64_t rows, absl::Span<const int64_t> sizes) {
  absl::InlinedVector<int64_t, 4> largest(sizes.begin(), sizes.end());
  double own = 1;
  double each = 1;
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (!largest_.empty()) largest[d] = std::max(largest[d], largest_[d]);
    own *= static_cast<double>(sizes[d]);
    each *= static_cast<double>(largest[d]);
  }
  const double all_rows = rows_ + static_cast<double>(rows);
  const double wanted = wanted_ + own * static_cast<double>(rows);
  const double computed = each * all_rows;
  if (rows_ > 0 && computed - wanted > kMaxPaddedShare * computed) return false;
  rows_ = all_rows;
  wanted_ = wanted;
  largest_ = std::move(largest);
  return true;
}

BatchPlan PlanBatch(absl::Span<const WaitingRequest> waiting, TimePoint now, TimePoint start,
                    absl::Span<const BatchLimits> limits) {
  BatchPlan plan;
  start = std::max(now, start);
  int64_t rows = 0;
  int64_t most = 0;
  std::string_view shape_key;
  PaddedBatch padded;
  for (size_t i = 0; i < waiting.size(); ++i) {
    const WaitingRequest& request = waiting[i];
    if (request.cancelled) {
      plan.cancelled.push_back(i);
      continue;
    }
    if (request.version >= limits.size()) {
      plan.gone.push_back(i);
      continue;
    }
    const BatchLimits& limit = limits[request.version];
    const bool fits = request.rows <= limit.replica_rows;
    if (request.deadline != TimePoint::max()) {
      // What another replica is to take may begin there at once, for all that is known here.
      TimePoint end = fits ? start : now;
      if (fits && limit.compute_times != nullptr) {
        end += limit.compute_times->LeastFor(request.rows, now);
      }
      if (end > request.deadline) {
        plan.late.push_back(i);
        continue;
      }
    }
    if (!fits) {
      if (request.rows > limit.any_replica_rows) plan.too_large.push_back(i);
      continue;
    }
    if (plan.take.empty()) {
      plan.version = request.version;
      shape_key = request.shape_key;
      most = std::min(limit.rows, limit.replica_rows);
    } else if (request.version != plan.version || request.shape_key != shape_key) {
      continue;
    } else if (rows + request.rows > most) {
      plan.full = true;
      break;
    }
    if (!request.open_sizes.empty() && !padded.Join(request.rows, request.open_sizes)) continue;
    rows += request.rows;
    plan.take.push_back(i);
  }
  plan.full = plan.full || (!plan.take.empty() && rows >= most);
  return plan;
}

NextStep DecideStep(const ExecutorSituation& situation, TimePoint now) {
  if (situation.under_way == 0) {
    return {situation.work ? ExecutorStep::kClose : ExecutorStep::kRest};
  }
  if (situation.under_way >= situation.depth) return {ExecutorStep::kFinish};
  const TimePoint close_at = situation.last_end - situation.assembling - kTimerSlack;
  if (situation.work && (situation.full || now >= close_at)) return {ExecutorStep::kClose};
  // Whoever waits for the first batch's answers must not wait for the last one's end.
  const TimePoint until = std::min(situation.first_end, close_at);
  if (now >= until) return {ExecutorStep::kFinish};
  return {ExecutorStep::kRest, until};
}

}  // namespace sconce
