#include "server/reload/reloader.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/base/printable.h"
#include "server/reload/compatibility.h"

namespace sconce {
namespace {

// Few, so that a start with many models does not read all of them at once; more than one, so that a
// model that takes long, or hangs on a dead file system, holds up nobody but itself. The same goes
// for publishers: a removal waits for the batch that is being computed.
constexpr int kLoaders = 4;
constexpr int kPublishers = 4;

constexpr const char* kUnloaded = "unloaded on request; RepositoryModelLoad brings it back";

std::string Text(const absl::Status& status) { return std::string(status.message()); }

std::string FileNameOf(const ModelSource& source) {
  return Printable(std::filesystem::path(source.weights->path).filename().string());
}

std::string Megabytes(int64_t bytes) {
  return absl::StrFormat("%.1f MB", static_cast<double>(bytes) / 1e6);
}

// What clients have while a file is refused.
std::string ServingOf(const Model& model) {
  const std::shared_ptr<const ModelVersion> live = model.Pin();
  if (live == nullptr) return "nothing serves yet";
  return absl::StrCat("version ", live->number, " keeps serving");
}

absl::Status NoSuchModel(const std::string& name) {
  return absl::NotFoundError(absl::StrCat("the repository has no model '", Printable(name), "'"));
}

absl::Status ShuttingDown() { return absl::UnavailableError("the server is shutting down"); }

std::vector<ModelMemory> MemoryOf(const ModelVersion& version) {
  std::vector<ModelMemory> memory;
  for (const DeviceFootprint& footprint : version.footprints) {
    memory.push_back({footprint.device, "weights", footprint.weights_bytes});
    memory.push_back({footprint.device, "workspace", footprint.workspace_bytes});
    memory.push_back({footprint.device, "graphs", footprint.graphs_bytes});
    memory.push_back({footprint.device, "staging", footprint.staging_bytes});
  }
  return memory;
}

}  // namespace

Reloader::Reloader(Options options, ConfigParser parse_config, VersionLoader* loader,
                   Registry* registry, Reaper* reaper, Metrics* metrics)
    : options_(std::move(options)),
      loader_(loader),
      registry_(registry),
      reaper_(reaper),
      metrics_(metrics),
      scanner_(options_.repository, std::move(parse_config)),
      publishers_("sconce-publish", kPublishers, ThreadPriority::kNormal),
      loaders_("sconce-load", kLoaders, ThreadPriority::kBackground) {}

void Reloader::Start() {
  // The first look may come before the pointer is set; LookNow is called under the lock for that.
  MutexLock lock(&mutex_);
  watcher_ = std::make_unique<Watcher>(options_.watch, [this] { return Look(); });
}

void Reloader::Stop() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
  }
  answered_.NotifyAll();
  if (watcher_ != nullptr) watcher_->Stop();
  loaders_.Stop();
  publishers_.Stop();
}

absl::Status Reloader::Load(const std::string& model, LoadOverrides overrides) {
  if (!overrides.empty()) return absl::UnimplementedError("overrides are not supported yet");
  const auto call = std::make_shared<Call>();
  MutexLock lock(&mutex_);
  if (stopped_) return ShuttingDown();
  if (watcher_ == nullptr) {
    return absl::UnavailableError("the model repository has not been looked at yet");
  }
  new_calls_.emplace_back(model, call);
  watcher_->LookNow();
  while (!call->done && !stopped_) answered_.Wait(&mutex_);
  return call->done ? call->result : ShuttingDown();
}

absl::Status Reloader::Unload(const std::string& name) {
  std::shared_ptr<Entry> entry;
  std::shared_ptr<Model> model;
  {
    MutexLock lock(&mutex_);
    const auto found = entries_.find(name);
    if (found == entries_.end() || found->second->model == nullptr) {
      return NoSuchModel(name);
    }
    entry = found->second;
    model = entry->model;
    entry->state.unloaded = true;
    entry->state.forced = false;
    entry->state.live.reset();
    const absl::Status overtaken = absl::AbortedError("the model was unloaded meanwhile");
    Answer(&entry->calls, overtaken);
    for (auto& [called, call] : new_calls_) {
      if (called != name) continue;
      Calls calls = {call};
      Answer(&calls, overtaken);
    }
    std::erase_if(new_calls_, [](const auto& waiting) { return waiting.second->done; });
    model->SetProgress({.loading = model->progress().loading, .last_error = kUnloaded});
  }
  MutexLock change(&entry->change_mutex);
  {
    MutexLock lock(&mutex_);
    if (!entry->state.unloaded || entry->model != model) return absl::OkStatus();
  }
  registry_->Retire(model);
  metrics_->ForModel(name)->SetServingVersion(0, "");
  metrics_->ForModel(name)->SetMemory({});
  spdlog::info("model '{}': unloaded on request", name);
  return absl::OkStatus();
}

Watcher::NextLook Reloader::Look() {
  std::vector<std::pair<std::string, std::shared_ptr<Call>>> calls;
  {
    MutexLock lock(&mutex_);
    calls.swap(new_calls_);
  }
  // A file is left alone from the end of one look to the beginning of another.
  const TimePoint began = Clock::Real()->Now();
  const std::chrono::system_clock::time_point wall_began = std::chrono::system_clock::now();
  absl::StatusOr<RepositorySnapshot> snapshot = scanner_.Scan();
  const TimePoint ended = Clock::Real()->Now();
  LogRepository(snapshot);
  if (snapshot.ok()) AddModels(*snapshot);

  MutexLock lock(&mutex_);
  for (const auto& [name, call] : calls) {
    Calls one = {call};
    const auto entry = entries_.find(name);
    if (!snapshot.ok()) {
      Answer(&one, absl::UnavailableError(snapshot.status().message()));
    } else if (snapshot->models.find(name) == snapshot->models.end()) {
      Answer(&one, NoSuchModel(name));
    } else {
      entry->second->calls.push_back(call);
      entry->second->state.forced = true;
      entry->second->state.unloaded = false;
    }
  }
  // Nothing is known of any model: all of them stay as they are.
  if (!snapshot.ok()) return {.folders = {options_.repository}};

  Watcher::NextLook next{.folders = std::move(snapshot->folders)};
  for (const auto& [name, entry] : entries_) {
    const auto found = snapshot->models.find(name);
    const bool there = found != snapshot->models.end();
    Observe(&entry->state, there ? &found->second : nullptr, ended);
    if (!there) {
      entry->state.forced = false;
      Answer(&entry->calls, NoSuchModel(name));
    }
    if (entry->busy || entry->model == nullptr || stopped_) continue;
    next.at = std::min(next.at, Act(entry, began, wall_began));
  }
  return next;
}

void Reloader::LogRepository(const absl::StatusOr<RepositorySnapshot>& snapshot) {
  if (snapshot.status() != repository_status_) {
    repository_status_ = snapshot.status();
    if (snapshot.ok()) {
      spdlog::info("model repository {}: can be read again", Printable(options_.repository));
    } else {
      spdlog::error("model repository: {}; what is served stays as it is", Text(snapshot.status()));
    }
  }
  if (!snapshot.ok() || snapshot->ignored == ignored_) return;
  for (const auto& [name, reason] : snapshot->ignored) {
    if (ignored_.find(name) != ignored_.end()) continue;
    spdlog::warn("model repository: '{}' is ignored: {}", Printable(name), reason);
  }
  ignored_ = snapshot->ignored;
}

void Reloader::AddModels(const RepositorySnapshot& snapshot) {
  std::set<std::string> names;
  for (const auto& [name, observation] : snapshot.models) {
    names.insert(name);
    std::shared_ptr<Entry> entry;
    {
      MutexLock lock(&mutex_);
      std::shared_ptr<Entry>& slot = entries_[name];
      if (slot == nullptr) slot = std::make_shared<Entry>(name);
      // A model whose removal is under way comes back with the look that follows it.
      if (slot->model != nullptr || slot->busy) continue;
      entry = slot;
    }
    std::shared_ptr<Model> model = registry_->Add(name);
    MutexLock lock(&mutex_);
    entry->model = std::move(model);
    if (entry->state.unloaded) {
      entry->model->SetProgress({.loading = false, .last_error = kUnloaded});
    }
  }
  if (looked_) return;
  looked_ = true;
  spdlog::info("model repository {}: {} model{}", Printable(options_.repository), names.size(),
               names.size() == 1 ? "" : "s");
  registry_->SetInitialModels(std::move(names));
}

TimePoint Reloader::Act(const std::shared_ptr<Entry>& entry, TimePoint now,
                        std::chrono::system_clock::time_point wall_now) {
  for (;;) {
    const Decision decision = Decide(entry->state, options_.times, now, wall_now);
    switch (decision.action) {
      case ReloadAction::kNothing:
        return decision.look_again.value_or(TimePoint::max());
      case ReloadAction::kLoad:
        StartLoad(entry);
        return TimePoint::max();
      case ReloadAction::kRemove:
        entry->busy = true;
        publishers_.Run([this, entry] { RemoveModel(entry); });
        return TimePoint::max();
      case ReloadAction::kReport:
        Report(entry.get(), decision.report);
        break;  // and ask again
    }
  }
}

void Reloader::StartLoad(const std::shared_ptr<Entry>& entry) {
  const ReloadState& state = entry->state;
  const auto task = std::make_shared<LoadTask>();
  task->entry = entry;
  task->model = entry->model;
  task->source = state.seen->source;
  task->config = state.seen->config;
  task->must_fit =
      !state.forced && entry->live_config != nullptr && *entry->live_config == *state.seen->config;
  task->number = entry->last_number + 1;
  task->calls.swap(entry->calls);
  if (!state.forced && (!state.failure.has_value() || state.failure->source != task->source)) {
    metrics_->ForModel(entry->name)
        ->ObserveStep(VersionState::kSettling,
                      ToSeconds(Clock::Real()->Now() - state.changed_since));
  }
  entry->state.forced = false;
  entry->busy = true;
  entry->model->SetProgress({.loading = true, .last_error = entry->model->progress().last_error});
  loaders_.Run([this, task] {
    RunLoad(task.get());
    publishers_.Run([this, task] { FinishLoad(task.get()); });
  });
}

void Reloader::Report(Entry* entry, const absl::Status& report) {
  const std::string serving = ServingOf(*entry->model);
  if (report.ok()) {
    spdlog::info("model '{}': its folder holds again what is served; {}", entry->name, serving);
  } else if (absl::IsNotFound(report)) {
    spdlog::info("model '{}': {}; {}", entry->name, Text(report), serving);
  } else {
    spdlog::warn("model '{}': {}; {}", entry->name, Text(report), serving);
  }
  if (!entry->state.seen->status.ok() && !IsTransient(report)) {
    metrics_->ForModel(entry->name)->CountLoad(LoadOutcome::kRejected);
  }
  entry->model->SetProgress({.loading = false, .last_error = Text(report)});
  RecordReport(&entry->state, report);
  entry->state.forced = false;
  Answer(&entry->calls, report);
}

void Reloader::Answer(Calls* calls, const absl::Status& result) {
  for (const std::shared_ptr<Call>& call : *calls) {
    call->done = true;
    call->result = result;
  }
  calls->clear();
  answered_.NotifyAll();
}

void Reloader::RunLoad(LoadTask* task) {
  const std::string& name = task->entry->name;
  ModelMetrics* const metrics = metrics_->ForModel(name);
  spdlog::info("model '{}': loading {} ({})", name, FileNameOf(task->source),
               Megabytes(task->source.weights->fingerprint.size_bytes));
  task->loaded = loader_->Load({.model = name,
                                .weights_path = task->source.weights->path,
                                .config = *task->config,
                                .number = task->number,
                                .on_step = [task, metrics](VersionState step, Duration time) {
                                  metrics->ObserveStep(step, ToSeconds(time));
                                  absl::StrAppend(&task->phases, task->phases.empty() ? "" : ", ",
                                                  std::string(VersionStateName(step)), " ",
                                                  absl::StrFormat("%.3f s", ToSeconds(time)));
                                }});
  if (task->loaded.ok() && !IsUnchanged(task->source, scanner_.FolderOf(name))) {
    task->loaded = absl::AbortedError(
        absl::StrCat(FileNameOf(task->source), " or its config.pbtxt changed while it was read"));
  }
}

void Reloader::FinishLoad(LoadTask* task) {
  const std::string& name = task->entry->name;
  absl::Status result = Check(*task);
  // Owned by the reaper whatever becomes of it: freeing weights takes long.
  std::shared_ptr<const ModelVersion> version;
  if (task->loaded.ok()) version = reaper_->Own(std::move(task->loaded->version));
  if (result.ok()) {
    const TimePoint start = Clock::Real()->Now();
    if (Publish(*task, version)) {
      metrics_->ForModel(name)->ObserveStep(VersionState::kPublished,
                                            ToSeconds(Clock::Real()->Now() - start));
      spdlog::info("model '{}': version {} serves {} (weights {}, {}, {}{}{}{}{})", name,
                   version->number, Printable(version->architecture), version->weights_id,
                   FileNameOf(task->source), Megabytes(version->weights_bytes),
                   task->phases.empty() ? "" : "; ", task->phases,
                   version->provenance.empty() ? "" : "; ", version->provenance);
    } else {
      result = absl::AbortedError("the model was unloaded, or the server stopped, meanwhile");
    }
  } else {
    Fail(*task, result);
  }

  MutexLock lock(&mutex_);
  task->model->SetProgress({.loading = false, .last_error = task->model->progress().last_error});
  task->entry->busy = false;
  Answer(&task->calls, result);
  watcher_->LookNow();
}

absl::Status Reloader::Check(const LoadTask& task) const {
  if (!task.loaded.ok()) return task.loaded.status();
  const std::shared_ptr<const ModelVersion> live = task.model->Pin();
  if (!task.must_fit || live == nullptr) return absl::OkStatus();
  return CheckReplaces(*live, *task.loaded->version);
}

bool Reloader::Publish(const LoadTask& task, std::shared_ptr<const ModelVersion> version) {
  Entry* const entry = task.entry.get();
  MutexLock change(&entry->change_mutex);
  {
    MutexLock lock(&mutex_);
    if (stopped_ || entry->state.unloaded) return false;
    RecordLoaded(&entry->state, task.source);
    entry->live_config = task.config;
    entry->last_number = version->number;
    task.model->SetProgress({.loading = true, .last_error = ""});
  }
  registry_->Publish(task.model, version);
  ModelMetrics* const metrics = metrics_->ForModel(entry->name);
  metrics->SetServingVersion(version->number, version->weights_id);
  metrics->SetMemory(MemoryOf(*version));
  metrics->CountLoad(LoadOutcome::kPublished);
  return true;
}

void Reloader::Fail(const LoadTask& task, const absl::Status& status) {
  const std::string& name = task.entry->name;
  std::optional<TimePoint> retry;
  const TimePoint now = Clock::Real()->Now();
  {
    MutexLock lock(&mutex_);
    if (stopped_ || task.entry->state.unloaded) return;
    retry = RecordFailure(&task.entry->state, options_.times, task.source, status, now);
    task.model->SetProgress({.loading = true, .last_error = Text(status)});
  }
  metrics_->ForModel(name)->CountLoad(retry.has_value() ? LoadOutcome::kRetrying
                                                        : LoadOutcome::kRejected);
  const std::string serving = ServingOf(*task.model);
  if (retry.has_value()) {
    spdlog::warn("model '{}': {} is not served yet: {}; trying again in {:.1f} s; {}", name,
                 FileNameOf(task.source), Text(status), ToSeconds(*retry - now), serving);
  } else {
    spdlog::warn("model '{}': {} refused: {}; {}", name, FileNameOf(task.source), Text(status),
                 serving);
  }
}

void Reloader::RemoveModel(const std::shared_ptr<Entry>& entry) {
  {
    MutexLock change(&entry->change_mutex);
    registry_->Remove(entry->name);
    metrics_->ForModel(entry->name)->SetServingVersion(0, "");
    metrics_->ForModel(entry->name)->SetMemory({});
  }
  spdlog::info("model '{}': removed, its folder is gone", entry->name);
  MutexLock lock(&mutex_);
  RecordRemoved(&entry->state);
  entry->model = nullptr;
  entry->live_config = nullptr;
  entry->busy = false;
  watcher_->LookNow();
}

}  // namespace sconce
