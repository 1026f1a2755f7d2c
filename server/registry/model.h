// Model: one folder of the repository as the server sees it: the version that answers now, how the
// last attempt to change it went, and counts that outlive versions.
//
// Thread-safe. Owned by Registry through shared_ptr; a request keeps its model alive. Versions are
// changed by the reloader alone; Pin is called by every batch.

#ifndef SCONCE_SERVER_REGISTRY_MODEL_H_
#define SCONCE_SERVER_REGISTRY_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>

#include "server/base/mutex.h"
#include "server/registry/model_statistics.h"
#include "server/registry/model_version.h"

namespace sconce {

class Model {
 public:
  explicit Model(std::string name) : name_(std::move(name)) {}

  const std::string& name() const { return name_; }
  ModelStatistics& statistics() { return statistics_; }

  // The version that answers now, or null while there is none. Whoever holds the pointer can run
  // that version to the end, whatever is published meanwhile.
  std::shared_ptr<const ModelVersion> Pin() const;

  // Makes `version` the one that answers: batches formed from now on use it.
  // REQUIRES: version->number is greater than that of any version published before.
  void Publish(std::shared_ptr<const ModelVersion> version);

  // Takes the model out of service; batches that pinned a version finish on it.
  void Retire();

  // Takes the model out of service for `reason`, unless another version than `version` answers by
  // now; false then.
  bool RetireLost(const ModelVersion& version, std::string reason);

  // The number the next published version gets.
  int64_t NextNumber() const;

  // What an operator is told beside the version: loading, and why the last attempt failed; empty
  // after a success.
  struct Progress {
    bool loading = false;
    std::string last_error;
  };
  void SetProgress(Progress progress);
  Progress progress() const;

 private:
  const std::string name_;
  ModelStatistics statistics_;
  mutable Mutex mutex_;
  std::shared_ptr<const ModelVersion> live_ ABSL_GUARDED_BY(mutex_);
  int64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  Progress progress_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_MODEL_H_
