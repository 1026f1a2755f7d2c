// The canary policy: whether a new version that answers a share of the batches has done well enough
// to answer all of them, or badly enough to be withdrawn. A pure function of counts, and what
// collects them.

#ifndef SCONCE_SERVER_REGISTRY_CANARY_POLICY_H_
#define SCONCE_SERVER_REGISTRY_CANARY_POLICY_H_

#include <cstdint>
#include <map>
#include <string>

#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/registry/model_config.h"

namespace sconce {

// What one version did since the canary began.
struct VersionCounts {
  int64_t requests = 0;  // failed ones too
  // Those that failed for a reason that is not the client's.
  int64_t failed = 0;
  // Batches with an output that is not finite.
  int64_t non_finite = 0;
  // By rows of the batch: batches, and the time they took to compute.
  struct Times {
    int64_t batches = 0;
    Duration compute{};
  };
  std::map<int64_t, Times> by_rows;
};

struct CanaryVerdict {
  enum class Kind { kGoOn, kPromote, kWithdraw };
  Kind kind = Kind::kGoOn;
  std::string reason;  // of a withdrawal, with the figures
};

// A canary is withdrawn as soon as the counts say so by more than chance explains, and promoted
// when its time is over, also where it answered too little to compare times. One that answered
// nothing goes on: nothing speaks for it yet. `since`: how long it has answered.
CanaryVerdict JudgeCanary(const CanaryConfig& config, const VersionCounts& live,
                          const VersionCounts& canary, Duration since);

// What both versions did, as the executors tell. Thread-safe; owned by the Serving of the trial.
class CanaryTrial {
 public:
  CanaryTrial(int64_t live, int64_t canary) : live_(live), canary_(canary) {}

  // Does nothing for versions that are neither.
  // A batch that was answered.
  void RecordBatch(int64_t version, int64_t requests, int64_t rows, Duration compute,
                   bool non_finite);
  // Requests that were not, for a reason that is not the client's.
  void RecordFailures(int64_t version, int64_t requests);

  VersionCounts live() const;
  VersionCounts canary() const;

 private:
  VersionCounts* CountsOf(int64_t version) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t live_;
  const int64_t canary_;
  mutable Mutex mutex_;
  VersionCounts live_counts_ ABSL_GUARDED_BY(mutex_);
  VersionCounts canary_counts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_CANARY_POLICY_H_
