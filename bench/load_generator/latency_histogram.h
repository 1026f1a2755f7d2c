// LatencyHistogram: counts of durations in buckets that grow with the duration, so that a long run
// takes no more memory than a short one. A percentile is at most 0.8% above the true one; the
// largest value is exact.
//
// A value type; one thread at a time.

#ifndef SCONCE_BENCH_LOAD_GENERATOR_LATENCY_HISTOGRAM_H_
#define SCONCE_BENCH_LOAD_GENERATOR_LATENCY_HISTOGRAM_H_

#include <cstdint>
#include <vector>

#include "server/base/clock.h"

namespace sconce::bench {

class LatencyHistogram {
 public:
  // A negative duration counts as zero.
  void Record(Duration duration);

  int64_t count() const { return count_; }
  Duration max() const { return max_; }
  // The duration that `quantile` (0..1) of those recorded do not exceed; zero where there are none.
  Duration Quantile(double quantile) const;

 private:
  std::vector<int64_t> counts_;
  int64_t count_ = 0;
  Duration max_{};
};

}  // namespace sconce::bench

#endif  // SCONCE_BENCH_LOAD_GENERATOR_LATENCY_HISTOGRAM_H_
