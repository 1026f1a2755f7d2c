// Model: one folder of the repository as the server sees it: the versions that answer now, how the
// last attempt to change it went, and counts that outlive versions.
//
// Thread-safe. Owned by Registry through shared_ptr; a request keeps its model alive. Versions are
// changed by the reloader alone; Pin is called by every batch.

#ifndef SCONCE_SERVER_REGISTRY_MODEL_H_
#define SCONCE_SERVER_REGISTRY_MODEL_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "server/base/mutex.h"
#include "server/base/version_state.h"
#include "server/registry/canary_policy.h"
#include "server/registry/model_statistics.h"
#include "server/registry/model_version.h"
#include "server/registry/recent_requests.h"

namespace sconce {

// The versions of a model that answer at one time.
struct Serving {
  // Answers requests that ask for no version; null: the model is out of service.
  std::shared_ptr<const ModelVersion> live;
  // Answer those that ask for them, beside `live`; by number.
  std::map<int64_t, std::shared_ptr<const ModelVersion>> others = {};
  // Answers a share of the batches that ask for no version; null: there is none.
  std::shared_ptr<const ModelVersion> canary = nullptr;
  double canary_share = 0;  // in [0, 1)
  // Where there is a canary: what both do meanwhile.
  std::shared_ptr<CanaryTrial> trial = nullptr;
};

// NOT_FOUND, with what there is instead of version `wanted`. REQUIRES: there is a live version.
absl::Status NoSuchVersion(int64_t wanted, const Serving& serving);

// One version among those there are or were: where it stands, for whoever wants to know.
struct VersionRecord {
  int64_t number = 0;
  VersionState state = VersionState::kSeen;
  std::chrono::system_clock::time_point since{};
  std::string weights_path;
  std::string weights_id;  // empty while it is not known
  int64_t weights_bytes = 0;
  int64_t shared_bytes = 0;
  std::vector<PreparedDeviation> deviations = {};  // ModelVersion::deviations
  std::string error;  // of a version that was rejected, withdrawn or lost
};

// What a model loses with a version none of whose devices works.
enum class Lost {
  kNothing,  // the version does not answer any more
  kBeside,   // a canary, or a version that answers by its number; the live one goes on
  kModel,    // the live version: the model is out of service
};

class Model {
 public:
  explicit Model(std::string name) : name_(std::move(name)) {}

  const std::string& name() const { return name_; }
  ModelStatistics& statistics() { return statistics_; }
  RecentRequests& recent_requests() { return recent_requests_; }

  // The version that answers now, or null while there is none. Whoever holds the pointer can run
  // that version to the end, whatever is published meanwhile.
  std::shared_ptr<const ModelVersion> Pin() const;

  // The one of that number, if it answers now; else null.
  std::shared_ptr<const ModelVersion> Pin(int64_t number) const;

  Serving serving() const;

  // Another number whenever serving() is another, without a lock: whoever keeps a copy asks here
  // whether it is still true.
  uint64_t serving_change() const { return serving_change_.load(std::memory_order_acquire); }

  // From now on batches use `serving` alone.
  void Serve(Serving serving);

  // Takes the model out of service; batches that pinned a version finish on it.
  void Retire() { Serve({}); }

  // Takes `version`, none of whose devices works, out of service: with the whole model, for
  // `reason`, where it is the live one.
  Lost RetireLost(const ModelVersion& version, std::string reason);

  // The last reason that RetireLost took a version out of service for; empty: it never did.
  std::string lost_because() const;

  // What an operator is told beside the version: loading, and why the last attempt failed; empty
  // after a success.
  struct Progress {
    bool loading = false;
    std::string last_error;
  };
  void SetProgress(Progress progress);
  Progress progress() const;

  // The last versions, the newest last.
  void SetRecords(std::vector<VersionRecord> records);
  std::vector<VersionRecord> records() const;

 private:
  const std::string name_;
  ModelStatistics statistics_;
  RecentRequests recent_requests_;
  std::atomic<uint64_t> serving_change_{0};  // raised under mutex_
  mutable Mutex mutex_;
  Serving serving_ ABSL_GUARDED_BY(mutex_);
  std::string lost_because_ ABSL_GUARDED_BY(mutex_);
  Progress progress_ ABSL_GUARDED_BY(mutex_);
  std::vector<VersionRecord> records_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_MODEL_H_
