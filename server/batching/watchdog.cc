#include "server/batching/watchdog.h"

#include <spdlog/spdlog.h>

namespace sconce {
namespace {

constexpr std::chrono::seconds kInterval(3);

}  // namespace

std::vector<size_t> OverdueBatches(absl::Span<const WatchedBatch> batches, TimePoint now,
                                   Duration limit) {
  std::vector<size_t> overdue;
  for (size_t i = 0; i < batches.size(); ++i) {
    if (now - batches[i].began >= limit) overdue.push_back(i);
  }
  return overdue;
}

Watchdog::Watchdog(std::function<std::vector<WatchedBatch>()> under_way, Metrics* metrics,
                   const Clock* clock)
    : under_way_(std::move(under_way)),
      metrics_(metrics),
      clock_(clock),
      thread_("sconce-watch", ThreadPriority::kNormal, [this] { Run(); }) {}

Watchdog::~Watchdog() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
  }
  stopping_.NotifyAll();
  thread_.Join();
}

void Watchdog::Run() {
  for (;;) {
    {
      MutexLock lock(&mutex_);
      const TimePoint next = std::chrono::steady_clock::now() + kInterval;
      while (!stopped_ && stopping_.WaitUntil(&mutex_, next)) {
      }
      if (stopped_) return;
    }
    Look();
  }
}

void Watchdog::Look() {
  const std::vector<WatchedBatch> batches = under_way_();
  const TimePoint now = clock_->Now();
  MutexLock lock(&mutex_);
  std::set<BatchId> told;
  // Models that had one last time are told of none.
  for (auto& [model, count] : overdue_by_model_) count = 0;
  for (const size_t i : OverdueBatches(batches, now, kLimit)) {
    const WatchedBatch& batch = batches[i];
    ++overdue_by_model_[batch.model];
    const BatchId id(batch.model, batch.number);
    told.insert(id);
    if (told_.count(id) > 0) continue;
    spdlog::error("{}/{}: a batch of {} rows has not returned from {} for {:.0f} s", batch.model,
                  batch.version, batch.rows, batch.device, ToSeconds(now - batch.began));
  }
  told_ = std::move(told);
  for (const auto& [model, count] : overdue_by_model_) {
    metrics_->ForModel(model)->SetOverdueBatches(count);
  }
}

}  // namespace sconce
