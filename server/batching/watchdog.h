// Watchdog: reports batches that do not return. What a device does not finish cannot be taken back;
// somebody has to be told.

#ifndef SCONCE_SERVER_BATCHING_WATCHDOG_H_
#define SCONCE_SERVER_BATCHING_WATCHDOG_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "server/base/clock.h"
#include "server/base/metrics.h"
#include "server/base/mutex.h"
#include "server/base/thread.h"

namespace sconce {

// A batch that is under way.
struct WatchedBatch {
  std::string model;
  int64_t version = 0;
  uint64_t number = 0;  // rises within the model
  std::string device;
  int64_t rows = 0;
  TimePoint began{};
};

// Indices of the batches that began at least `limit` ago. A pure function.
std::vector<size_t> OverdueBatches(absl::Span<const WatchedBatch> batches, TimePoint now,
                                   Duration limit);

// Looks from time to time, from a thread of its own; each overdue batch is logged once, and counted
// in the metrics while it lasts.
// Thread-safe. Owned by App.
class Watchdog {
 public:
  // No network that answers requests takes as long.
  static constexpr std::chrono::seconds kLimit{30};

  Watchdog(std::function<std::vector<WatchedBatch>()> under_way, Metrics* metrics,
           const Clock* clock);
  ~Watchdog();

  // Looks now.
  void Look();

 private:
  using BatchId = std::pair<std::string, uint64_t>;

  void Run();

  const std::function<std::vector<WatchedBatch>()> under_way_;
  Metrics* const metrics_;
  const Clock* const clock_;
  Mutex mutex_;
  CondVar stopping_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  // Overdue at the last look, and so told of.
  std::set<BatchId> told_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int64_t> overdue_by_model_ ABSL_GUARDED_BY(mutex_);
  Thread thread_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_WATCHDOG_H_
