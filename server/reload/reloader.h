// Reloader: keeps what is served equal to what the model repository holds and the operator wishes.
// A watcher looks, the policies decide for each model, background threads load, and a version that
// has proven itself comes into service. Whatever fails leaves the last good version serving, with
// the reason in the log, the metrics, the records and Model::progress.
//
// Each model has at most one load at a time and shares nothing with the others but the threads: a
// model that is slow or broken delays no other.
//
// Thread-safe. Owned by App; the only one that changes the registry's models and versions, but for
// versions whose devices are lost.

#ifndef SCONCE_SERVER_RELOAD_RELOADER_H_
#define SCONCE_SERVER_RELOAD_RELOADER_H_

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/base/metrics.h"
#include "server/base/mutex.h"
#include "server/base/task_threads.h"
#include "server/registry/execution_gate.h"
#include "server/registry/reaper.h"
#include "server/registry/registry.h"
#include "server/registry/repository_control.h"
#include "server/reload/following.h"
#include "server/reload/inline_weights.h"
#include "server/reload/model_entry.h"
#include "server/reload/reload_policy.h"
#include "server/reload/repository_scan.h"
#include "server/reload/state_keeper.h"
#include "server/reload/version_loader.h"
#include "server/reload/watcher.h"

namespace sconce {

// Reads and checks a configuration in JSON for the model of that name
// (server/reload/config_file.h).
using JsonConfigParser =
    std::function<absl::StatusOr<ModelConfig>(const std::string& json, const std::string& model)>;

class Reloader : public RepositoryControl {
 public:
  struct Options {
    std::string repository;
    ReloadTimes times;
    Watcher::Options watch;
    ControlMode control = ControlMode::kFollow;
    std::string state_file = {};  // empty: none
    // In [0, 1), for ReloadTimes::jitter; called on the watcher's thread. Null: a generator of the
    // reloader's own.
    std::function<double()> random = nullptr;
  };
  struct Parsers {
    ConfigParser file;
    JsonConfigParser json;
  };

  // What is pointed to outlives the reloader; `gate` may be null, and then no weights are written
  // over others.
  Reloader(Options options, Parsers parsers, VersionLoader* loader, Registry* registry,
           Reaper* reaper, ExecutionGate* gate, Metrics* metrics);
  ~Reloader() override { Stop(); }

  // Takes the first look. REQUIRES: called once, when the registry has its observers.
  void Start();

  // Nothing is published from here on; returns when loads in progress have ended, which cannot be
  // cut short. Calls are answered with UNAVAILABLE.
  void Stop();

  absl::Status Load(const std::string& model, LoadOverrides overrides) override;
  absl::Status Unload(const std::string& model) override;
  absl::StatusOr<int64_t> Rollback(const std::string& model, int64_t number) override;
  absl::StatusOr<int64_t> Promote(const std::string& model, int64_t number) override;
  absl::Status SetPinned(const std::string& model, bool pinned) override;
  absl::StatusOr<std::vector<ModelStatus>> Status(const std::string& model) override;

 private:
  using WallTime = std::chrono::system_clock::time_point;
  using EntryPtr = std::shared_ptr<ModelEntry>;

  struct NewCall {
    std::string model;
    LoadOverrides overrides;
    std::shared_ptr<LoadCall> call;
  };

  // A load that was decided on, and what came of it.
  struct LoadTask {
    EntryPtr entry;
    std::shared_ptr<Model> model;
    int64_t place = 0;
    ModelSource source;
    std::shared_ptr<const ModelConfig> config;
    int64_t number = 1;
    int64_t epoch = 0;
    VersionRecords::Id record = 0;
    // An operator asked for it.
    bool forced = false;
    // Whether the new version has to fit the clients of the live one.
    bool must_fit = false;
    std::optional<LoadOverrides> overrides;
    // What came with a request, and what the client calls it.
    struct InlineFile {
      std::unique_ptr<InlineWeights> file;
      std::string name;
    };
    InlineFile inline_weights;
    InlineFile inline_program;
    // Null: the new version is to stand beside all others.
    std::shared_ptr<const ModelVersion> live;
    std::vector<std::shared_ptr<const RecentRequest>> recent;
    LoadCalls calls;
    absl::Status calls_result;  // of the loads before, for the same calls
    absl::StatusOr<LoadedVersion> loaded;
    bool other_than_pinned = false;
    VersionState reached = VersionState::kSettling;
    // "read 0.050 s, ...", for the log.
    std::string phases;
  };

  // What a load that ended well leads to.
  struct Arrival {
    bool wanted = true;  // false: the operator wants something else by now
    bool served = false;
    std::string says = {};  // for the log
  };

  // reloader.cc: looks.
  Watcher::NextLook Look();
  void LogRepository(const absl::StatusOr<RepositorySnapshot>& snapshot);
  void AddModels(const RepositorySnapshot& snapshot);
  EntryPtr AddModel(const std::string& name);
  void Accept(NewCall call, const absl::StatusOr<RepositorySnapshot>& snapshot)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ObserveModel(ModelEntry* entry, const ModelObservation* observation, TimePoint now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ObservePlace(ModelEntry* entry, int64_t number, const ModelObservation* observation,
                    TimePoint now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // reloader_act.cc: decisions. Act carries out what the policies say; returns when to look again.
  TimePoint Act(const EntryPtr& entry, TimePoint now, WallTime wall_now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  TimePoint ActOnPlace(const EntryPtr& entry, int64_t number, bool following, TimePoint now,
                       WallTime wall_now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void NoteAttempt(ModelEntry* entry, int64_t number, const Decision& decision)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ErasePlace(ModelEntry* entry, int64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Report(ModelEntry* entry, int64_t number, const absl::Status& report)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Answer(LoadCalls* calls, const absl::Status& result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AnswerAll(ModelEntry* entry, const absl::Status& result)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Answers those that no forced load will answer any more.
  void AnswerWaiting(ModelEntry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RemoveModel(const EntryPtr& entry);
  // What operators are told of the model, from what is known of it.
  void Refresh(ModelEntry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The same later, for background threads, which touch no lock that a request takes.
  void RefreshLater(const EntryPtr& entry);
  SavedState CurrentState();

  // reloader_load.cc: loads.
  void StartLoad(const EntryPtr& entry, int64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StartOverride(const EntryPtr& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void QueueLoad(const std::shared_ptr<LoadTask>& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // On a background thread: fills in what came of the task.
  void RunLoad(const std::shared_ptr<LoadTask>& task);
  // Puts the files that came with the request in the place of the folder's.
  absl::Status TakeInlineFiles(std::map<std::string, std::string> files, LoadTask* task);
  absl::Status PrepareOverride(LoadTask* task);
  LoadRequest RequestFor(const std::shared_ptr<LoadTask>& task);
  void OnStep(const std::shared_ptr<LoadTask>& task, VersionState step, Duration time);
  // On a publisher thread.
  void FinishLoad(LoadTask* task);
  // Why the loaded version is not to come into service.
  absl::Status Check(LoadTask* task);
  // `overwritten`: the version whose weights it was written over, or null.
  Arrival Arrive(const LoadTask& task, std::shared_ptr<const ModelVersion> version,
                 const ModelVersion* overwritten);
  void Fail(const LoadTask& task, const absl::Status& status);

  // reloader_serving.cc: what is in service. The entry's change_mutex is held, but where it says
  // otherwise.
  void Install(ModelEntry* entry, KnownVersion next, const ModelVersion* overwritten)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Retain(ModelEntry* entry, KnownVersion leaving, const ModelVersion* next)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TrimRetained(ModelEntry* entry, int64_t limit) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Begin(ModelEntry* entry, KnownVersion known, bool canary)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // `refusal`: OK where its source may be loaded again.
  void DropCandidate(ModelEntry* entry, const std::string& why, const absl::Status& refusal)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropAll(ModelEntry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Tells the registry and the metrics what the entry says.
  void Serve(const EntryPtr& entry);
  // Versions that the registry has lost with their devices.
  void ForgetLost(ModelEntry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A task of the model has ended: what was found meanwhile is looked at.
  void EndTask(ModelEntry* entry);
  // These take the change_mutex.
  void DropReplacedCandidate(const EntryPtr& entry);
  void WithdrawUnwanted(const EntryPtr& entry);
  void LoseVersion(const EntryPtr& entry, const ModelVersion* version, const std::string& reason);
  bool ReleaseRetained(const ModelEntry* of);
  void JudgeCanaries();
  void EndCanary(const EntryPtr& entry, const std::shared_ptr<const ModelVersion>& canary,
                 const CanaryVerdict& verdict);

  // reloader_control.cc: what operators ask for.
  absl::StatusOr<EntryPtr> FindModel(const std::string& name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckMayChange(const std::string& what) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ends what is under way for the model, and answers who waits for it.
  void Overtake(ModelEntry* entry, const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RollBackTo(ModelEntry* entry, size_t retained) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RefuseWhatIsThere(ModelEntry* entry, int64_t place, const ModelSource& but,
                         const std::string& number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // After a change that an operator asked for: looks again, and has it in the state file.
  void Settle();

  const Options options_;
  const JsonConfigParser parse_json_;
  VersionLoader* const loader_;
  Registry* const registry_;
  Reaper* const reaper_;
  ExecutionGate* const gate_;
  Metrics* const metrics_;

  // Of the watcher's thread alone.
  RepositoryScanner scanner_;
  std::function<double()> random_;
  bool looked_ = false;
  absl::Status repository_status_;
  std::map<std::string, std::string> ignored_;

  Mutex mutex_;
  CondVar answered_;
  CondVar canaries_changed_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::string, EntryPtr> entries_ ABSL_GUARDED_BY(mutex_);
  // Calls of Load that wait for a look that begins after them.
  std::vector<NewCall> new_calls_ ABSL_GUARDED_BY(mutex_);
  int64_t last_retained_ ABSL_GUARDED_BY(mutex_) = 0;

  StateKeeper keeper_;
  TaskThreads publishers_;
  TaskThreads loaders_;
  Thread judge_;
  // Set by Start; outlives the tasks.
  std::unique_ptr<Watcher> watcher_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_RELOADER_H_
