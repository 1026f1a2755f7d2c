#include "server/batching/dispatch_policy.h"

#include <algorithm>
#include <tuple>

namespace sconce {

std::optional<size_t> NextExecutor(absl::Span<const ExecutorLoad> executors,
                                   absl::Span<const ReplicaPlace> places, int64_t rows,
                                   TimePoint now) {
  std::optional<size_t> best;
  std::tuple<bool, bool, TimePoint, int64_t> least;
  for (size_t i = 0; i < std::min(executors.size(), places.size()); ++i) {
    const ExecutorLoad& candidate = executors[i];
    const ReplicaPlace& place = places[i];
    if (!candidate.available || !place.usable || place.max_rows < rows) continue;
    int64_t device_rows = 0;
    TimePoint device_end = now;  // a batch that is overdue tells nothing of when it ends
    for (const ExecutorLoad& other : executors) {
      if (other.device != place.device || other.under_way == 0) continue;
      device_rows += other.rows;
      device_end = std::max(device_end, other.expected_end);
    }
    const std::tuple load(candidate.under_way > 0, candidate.looks_soon, device_end, device_rows);
    if (best.has_value() && load >= least) continue;
    best = i;
    least = load;
  }
  return best;
}

}  // namespace sconce
