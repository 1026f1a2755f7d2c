// Model: one folder of the repository as the server sees it: the versions that answer now, how the
// last attempt to change it went, and counts that outlive versions.
//
// Thread-safe. Owned by Registry through shared_ptr; a request keeps its model alive. Versions are
// changed by the reloader alone; Pin is called by every batch.

#ifndef SCONCE_SERVER_REGISTRY_MODEL_H_
#define SCONCE_SERVER_REGISTRY_MODEL_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

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

// One version among those there are or were: where it stands, for whoever wants to know.
struct VersionRecord {
  int64_t number = 0;
  VersionState state = VersionState::kSeen;
  std::chrono::system_clock::time_point since{};
  std::string weights_path;
  std::string weights_id;  // empty while it is not known
  int64_t weights_bytes = 0;
  int64_t shared_bytes = 0;
  std::string error;  // of a version that was rejected, withdrawn or lost
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

  // What a batch of requests that ask for no version runs on: the live version, or, for its share
  // of the calls, the canary.
  std::shared_ptr<const ModelVersion> PinForBatch();

  Serving serving() const;

  // From now on batches use `serving` alone.
  void Serve(Serving serving);

  // Takes the model out of service; batches that pinned a version finish on it.
  void Retire() { Serve({}); }

  // Takes `version`, none of whose devices works, out of service for `reason`; false where it does
  // not answer any more.
  bool RetireLost(const ModelVersion& version, std::string reason);

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
  mutable Mutex mutex_;
  Serving serving_ ABSL_GUARDED_BY(mutex_);
  double canary_credit_ ABSL_GUARDED_BY(mutex_) = 0;
  Progress progress_ ABSL_GUARDED_BY(mutex_);
  std::vector<VersionRecord> records_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_MODEL_H_
