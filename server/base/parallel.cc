#include "server/base/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "server/base/mutex.h"
#include "server/base/thread.h"

namespace sconce {

int AvailableProcessors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(CPU_COUNT(&set), 1);
}

absl::Status RunInParallel(size_t count, int threads,
                           const std::function<absl::Status(size_t)>& job) {
  std::atomic<size_t> next = 0;
  std::atomic<bool> failed = false;
  Mutex mutex;
  size_t failed_job = count;
  absl::Status error;
  const auto work = [&] {
    while (!failed.load(std::memory_order_relaxed)) {
      const size_t mine = next.fetch_add(1, std::memory_order_relaxed);
      if (mine >= count) return;
      const absl::Status status = job(mine);
      if (status.ok()) continue;
      failed.store(true, std::memory_order_relaxed);
      MutexLock lock(&mutex);
      if (mine < failed_job) {
        failed_job = mine;
        error = status;
      }
    }
  };
  {
    // A thread inherits the policy and nice value of the one that starts it.
    std::vector<Thread> helpers;
    for (size_t i = 1; i < std::min(count, static_cast<size_t>(std::max(threads, 1))); ++i) {
      helpers.emplace_back("sconce-read", ThreadPriority::kNormal, work);
    }
    work();
  }
  return error;
}

}  // namespace sconce
