// ModelStatistics: the counts and times that Triton's ModelStatistics RPC reports. They belong to
// the model, not to a version: they only rise, across every swap.
//
// Thread-safe. Owned by Model; written once per batch or failed request.

#ifndef SCONCE_SERVER_REGISTRY_MODEL_STATISTICS_H_
#define SCONCE_SERVER_REGISTRY_MODEL_STATISTICS_H_

#include <chrono>
#include <cstdint>
#include <map>

#include "absl/types/span.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"

namespace sconce {

struct CountAndTime {
  uint64_t count = 0;
  std::chrono::nanoseconds total{0};

  void Add(Duration d, uint64_t n = 1) {
    count += n;
    total += ToNanos(d);
  }
};

struct BatchSizeStatistics {
  CountAndTime compute_input, compute_infer, compute_output;
};

struct StatisticsSnapshot {
  uint64_t inference_count = 0;  // rows
  uint64_t execution_count = 0;  // batches
  std::chrono::system_clock::time_point last_inference{};
  CountAndTime success, fail, queue, compute_input, compute_infer, compute_output;
  std::map<int64_t, BatchSizeStatistics> by_batch_rows;
};

// One executed batch.
struct BatchTimes {
  int64_t rows = 0;
  Duration assemble{}, compute{}, respond{};
  // Of each request in it: time in the queue, and from arrival to answer.
  absl::Span<const Duration> queued;
  absl::Span<const Duration> total;
};

class ModelStatistics {
 public:
  void RecordBatch(const BatchTimes& times);
  // A request that was not answered with a result; `total` from arrival.
  void RecordFailure(Duration total);
  StatisticsSnapshot Snapshot() const;

 private:
  mutable Mutex mutex_;
  StatisticsSnapshot counts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_MODEL_STATISTICS_H_
