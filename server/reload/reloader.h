// Reloader: keeps what is served equal to what the model repository holds. A watcher looks, the
// reload policy decides for each model, background threads load, and a version that has proven
// itself is published. Whatever fails leaves the last good version serving, with the reason
// in the log, the metrics and Model::progress.
//
// Each model has at most one task at a time and shares nothing with the others but the threads:
// a model that is slow or broken delays no other.
//
// Thread-safe. Owned by App; the only one that changes the registry's models and versions.

#ifndef SCONCE_SERVER_RELOAD_RELOADER_H_
#define SCONCE_SERVER_RELOAD_RELOADER_H_

#include <chrono>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "server/base/metrics.h"
#include "server/base/mutex.h"
#include "server/registry/reaper.h"
#include "server/registry/registry.h"
#include "server/registry/repository_control.h"
#include "server/reload/reload_policy.h"
#include "server/reload/repository_scan.h"
#include "server/reload/task_threads.h"
#include "server/reload/version_loader.h"
#include "server/reload/watcher.h"

namespace sconce {

class Reloader : public RepositoryControl {
 public:
  struct Options {
    std::string repository;
    ReloadTimes times;
    Watcher::Options watch;
  };

  // What is pointed to outlives the reloader.
  Reloader(Options options, ConfigParser parse_config, VersionLoader* loader, Registry* registry,
           Reaper* reaper, Metrics* metrics);
  ~Reloader() override { Stop(); }

  // Takes the first look. REQUIRES: called once, when the registry has its observers.
  void Start();

  // Nothing is published from here on; returns when loads in progress have ended, which cannot be
  // cut short. Calls of Load are answered with UNAVAILABLE.
  void Stop();

  absl::Status Load(const std::string& model, LoadOverrides overrides) override;
  absl::Status Unload(const std::string& model) override;
  absl::StatusOr<int64_t> Rollback(const std::string&, int64_t) override {
    return absl::UnimplementedError("");
  }
  absl::StatusOr<int64_t> Promote(const std::string&, int64_t) override {
    return absl::UnimplementedError("");
  }
  absl::Status SetPinned(const std::string&, bool) override { return absl::UnimplementedError(""); }
  absl::StatusOr<std::vector<ModelStatus>> Status(const std::string&) override {
    return absl::UnimplementedError("");
  }

 private:
  // A call of Load that waits. Guarded by mutex_.
  struct Call {
    bool done = false;
    absl::Status result;
  };
  using Calls = std::vector<std::shared_ptr<Call>>;

  // One model. Guarded by mutex_, except as said.
  struct Entry {
    explicit Entry(std::string n) : name(std::move(n)) {}
    const std::string name;
    // Null while the repository has no such folder; the entry stays, so that numbers only rise.
    std::shared_ptr<Model> model;
    ReloadState state;
    std::shared_ptr<const ModelConfig> live_config;
    int64_t last_number = 0;
    // A task of this model waits or runs.
    bool busy = false;
    Calls calls;
    // Orders what is done to the registry's model; held without mutex_ or before it.
    Mutex change_mutex;
  };

  // A load that was decided on, and what came of it.
  struct LoadTask {
    std::shared_ptr<Entry> entry;
    std::shared_ptr<Model> model;
    ModelSource source;
    std::shared_ptr<const ModelConfig> config;
    // Whether the new version has to fit the clients of the live one.
    bool must_fit = false;
    int64_t number = 1;
    Calls calls;
    absl::StatusOr<LoadedVersion> loaded;
    // "read 0.050 s, ...", for the log.
    std::string phases;
  };

  Watcher::NextLook Look();
  void LogRepository(const absl::StatusOr<RepositorySnapshot>& snapshot);
  void AddModels(const RepositorySnapshot& snapshot);
  // Carries out what the policy decides; returns when to look again.
  TimePoint Act(const std::shared_ptr<Entry>& entry, TimePoint now,
                std::chrono::system_clock::time_point wall_now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StartLoad(const std::shared_ptr<Entry>& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Report(Entry* entry, const absl::Status& report) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Answer(Calls* calls, const absl::Status& result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // On a background thread: fills in what came of the task.
  void RunLoad(LoadTask* task);

  // On a publisher thread.
  void FinishLoad(LoadTask* task);
  // Why the loaded version is not to be published.
  absl::Status Check(const LoadTask& task) const;
  // False where nobody wants the version any more.
  bool Publish(const LoadTask& task, std::shared_ptr<const ModelVersion> version);
  void Fail(const LoadTask& task, const absl::Status& status);
  void RemoveModel(const std::shared_ptr<Entry>& entry);

  const Options options_;
  VersionLoader* const loader_;
  Registry* const registry_;
  Reaper* const reaper_;
  Metrics* const metrics_;

  // Of the watcher's thread alone.
  RepositoryScanner scanner_;
  bool looked_ = false;
  absl::Status repository_status_;
  std::map<std::string, std::string> ignored_;

  Mutex mutex_;
  CondVar answered_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::string, std::shared_ptr<Entry>> entries_ ABSL_GUARDED_BY(mutex_);
  // Calls of Load that wait for a look that begins after them.
  std::vector<std::pair<std::string, std::shared_ptr<Call>>> new_calls_ ABSL_GUARDED_BY(mutex_);

  TaskThreads publishers_;
  TaskThreads loaders_;
  // Set by Start; outlives the tasks.
  std::unique_ptr<Watcher> watcher_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_RELOADER_H_
