// Starting, stopping, and looks at the repository.

#include "server/reload/reloader.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <random>
#include <set>

#include "server/reload/reloader_text.h"

namespace sconce {
namespace {

// Few, so that a start with many models does not read all of them at once; more than one, so that a
// model that takes long, or hangs on a dead file system, holds up nobody but itself. The same goes
// for publishers: a removal waits for the batch that is being computed.
constexpr int kLoaders = 4;
constexpr int kPublishers = 4;

std::function<double()> RandomShare() {
  return [generator = std::mt19937_64(std::random_device{}())]() mutable {
    return std::uniform_real_distribution<double>(0, 1)(generator);
  };
}

}  // namespace

Reloader::Reloader(Options options, Parsers parsers, VersionLoader* loader, Registry* registry,
                   Reaper* reaper, ExecutionGate* gate, Metrics* metrics)
    : options_(std::move(options)),
      parse_json_(std::move(parsers.json)),
      loader_(loader),
      registry_(registry),
      reaper_(reaper),
      gate_(gate),
      metrics_(metrics),
      scanner_(options_.repository, std::move(parsers.file)),
      random_(options_.random ? options_.random : RandomShare()),
      keeper_(options_.state_file, [this] { return CurrentState(); }),
      publishers_("sconce-publish", kPublishers, ThreadPriority::kNormal),
      loaders_("sconce-load", kLoaders, ThreadPriority::kBackground) {}

void Reloader::Start() {
  const SavedState saved = keeper_.Start();
  // The first look may come before the pointer is set; LookNow is called under the lock for that.
  MutexLock lock(&mutex_);
  for (const auto& [name, model] : saved) {
    EntryPtr& entry = entries_[name];
    entry = std::make_shared<ModelEntry>(name);
    Restore(model, entry.get());
  }
  judge_ = Thread("sconce-canary", ThreadPriority::kNormal, [this] { JudgeCanaries(); });
  watcher_ = std::make_unique<Watcher>(options_.watch, [this] { return Look(); });
}

void Reloader::Stop() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
  }
  answered_.NotifyAll();
  canaries_changed_.NotifyAll();
  if (watcher_ != nullptr) watcher_->Stop();
  judge_.Join();
  loaders_.Stop();
  publishers_.Stop();
  keeper_.Stop();
}

SavedState Reloader::CurrentState() {
  SavedState state;
  MutexLock lock(&mutex_);
  for (const auto& [name, entry] : entries_) {
    SavedModel saved = SavedOf(*entry);
    if (!(saved == SavedModel())) state[name] = std::move(saved);
  }
  return state;
}

Watcher::NextLook Reloader::Look() {
  std::vector<NewCall> calls;
  {
    MutexLock lock(&mutex_);
    calls.swap(new_calls_);
  }
  // A file is left alone from the end of one look to the beginning of another.
  const TimePoint began = Clock::Real()->Now();
  const WallTime wall_began = WallNow();
  absl::StatusOr<RepositorySnapshot> snapshot = scanner_.Scan();
  const TimePoint ended = Clock::Real()->Now();
  LogRepository(snapshot);
  if (snapshot.ok()) AddModels(*snapshot);
  // What comes with its own weights needs no folder.
  for (const NewCall& call : calls) {
    if (!call.overrides.files.empty()) AddModel(call.model);
  }

  MutexLock lock(&mutex_);
  if (snapshot.ok()) {
    for (const auto& [name, entry] : entries_) {
      const auto found = snapshot->models.find(name);
      ObserveModel(entry.get(), found == snapshot->models.end() ? nullptr : &found->second, ended);
    }
    looked_ = true;
  }
  for (NewCall& call : calls) Accept(std::move(call), snapshot);

  Watcher::NextLook next{.folders = {options_.repository}};
  if (snapshot.ok()) next.folders = std::move(snapshot->folders);
  for (const auto& [name, entry] : entries_) {
    if (entry->busy || entry->model == nullptr || stopped_) continue;
    // Where the repository cannot be read nothing is known of any model: all stay as they are.
    if (!snapshot.ok() && entry->overrides.empty()) continue;
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
  if (looked_ && options_.control == ControlMode::kFixed) return;
  std::set<std::string> awaited;
  for (const auto& [name, observation] : snapshot.models) {
    const EntryPtr entry = AddModel(name);
    MutexLock lock(&mutex_);
    if (IsAwaited(options_.control, entry->wishes)) awaited.insert(name);
  }
  if (looked_) return;
  spdlog::info("model repository {}: {} model{}", Printable(options_.repository),
               snapshot.models.size(), snapshot.models.size() == 1 ? "" : "s");
  registry_->SetInitialModels(std::move(awaited));
}

Reloader::EntryPtr Reloader::AddModel(const std::string& name) {
  EntryPtr entry;
  {
    MutexLock lock(&mutex_);
    EntryPtr& known = entries_[name];
    if (known == nullptr) known = std::make_shared<ModelEntry>(name);
    entry = known;
    // A model whose removal is under way comes back with the look that follows it.
    if (entry->model != nullptr || entry->busy) return entry;
  }
  std::shared_ptr<Model> model = registry_->Add(name);
  MutexLock lock(&mutex_);
  entry->model = std::move(model);
  Refresh(entry.get());
  return entry;
}

void Reloader::Accept(NewCall call, const absl::StatusOr<RepositorySnapshot>& snapshot) {
  LoadCalls one = {call.call};
  const bool brings_weights = !call.overrides.files.empty();
  if (!brings_weights && !snapshot.ok()) {
    return Answer(&one, absl::UnavailableError(snapshot.status().message()));
  }
  if (!brings_weights && snapshot->models.find(call.model) == snapshot->models.end()) {
    return Answer(&one, NoSuchModel(call.model));
  }
  ModelEntry* const entry = entries_.at(call.model).get();
  if (entry->model == nullptr) {
    return Answer(&one, absl::AbortedError("the model is being removed; try again"));
  }
  if (!call.overrides.empty()) {
    entry->overrides.push_back({std::move(call.overrides), call.call});
    return;
  }
  entry->wishes.unloaded = false;
  entry->wishes.overridden = false;
  entry->calls.push_back(call.call);
  const std::set<int64_t> wanted = WantedOf(*entry, RefusedToo::kYes);
  for (auto& [number, place] : entry->places) {
    if (number == 0 || wanted.count(number) > 0) place.forced = true;
  }
}

void Reloader::ObserveModel(ModelEntry* entry, const ModelObservation* observation, TimePoint now) {
  if (observation == nullptr) {
    if (!entry->missing_since.has_value()) entry->missing_since = now;
    for (auto& [number, place] : entry->places) place.forced = false;
    if (!entry->calls.empty()) Answer(&entry->calls, NoSuchModel(entry->name));
    return;
  }
  entry->missing_since.reset();
  if (observation->config != nullptr) entry->policy = observation->config->version_policy;
  const bool is_numbered = observation->status.ok() && !observation->numbered.empty();
  if (is_numbered) {
    for (const auto& [number, numbered] : observation->numbered) {
      const ModelObservation seen{
          .status = numbered.status, .source = numbered.source, .config = observation->config};
      ObservePlace(entry, number, &seen, now);
    }
  } else {
    ObservePlace(entry, 0, observation, now);
  }
  // Trouble with the folder as a whole says nothing of what is in it.
  if (!observation->status.ok()) return;
  for (const auto& [number, place] : entry->places) {
    const bool there = is_numbered ? observation->numbered.count(number) > 0 : number == 0;
    if (!there) ObservePlace(entry, number, nullptr, now);
  }
}

void Reloader::ObservePlace(ModelEntry* entry, int64_t number, const ModelObservation* observation,
                            TimePoint now) {
  ReloadState* const place = &entry->places[number];
  const bool is_new = Observe(place, entry->refused, observation, now);
  if (!is_new || !looked_ || options_.times.jitter <= Duration::zero()) return;
  place->jitter = std::chrono::duration_cast<Duration>(options_.times.jitter * random_());
}

void Reloader::Answer(LoadCalls* calls, const absl::Status& result) {
  for (const std::shared_ptr<LoadCall>& call : *calls) {
    call->done = true;
    call->result = absl::Status(result.code(), result.message());
  }
  calls->clear();
  answered_.NotifyAll();
}

void Reloader::AnswerAll(ModelEntry* entry, const absl::Status& result) {
  Answer(&entry->calls, result);
  entry->calls_result = absl::OkStatus();
  for (OverrideCall& waiting : entry->overrides) {
    LoadCalls calls = {std::move(waiting.call)};
    Answer(&calls, result);
  }
  entry->overrides.clear();
}

void Reloader::Refresh(ModelEntry* entry) {
  if (entry->model == nullptr) return;
  entry->model->SetProgress(
      {.loading = entry->busy, .last_error = ErrorOf(*entry, options_.control)});
  entry->model->SetRecords(entry->records.list());
  metrics_->ForModel(entry->name)->SetVersions(entry->records.counts());
  keeper_.Changed();
}

void Reloader::RefreshLater(const EntryPtr& entry) {
  publishers_.Run([this, entry] {
    MutexLock lock(&mutex_);
    Refresh(entry.get());
  });
}

}  // namespace sconce
