// Loads: from a decision to a version that has proven itself, or to the reason why it has not.

#include <spdlog/spdlog.h>

#include <algorithm>

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "server/base/printable.h"
#include "server/reload/compatibility.h"
#include "server/reload/model_folder.h"
#include "server/reload/promotion.h"
#include "server/reload/reloader.h"
#include "server/reload/reloader_text.h"

namespace sconce {
namespace {

std::string Megabytes(int64_t bytes) {
  return absl::StrFormat("%.1f MB", static_cast<double>(bytes) / 1e6);
}

// Whether a version from `place` would take the place of the only one that answers.
bool ReplacesAll(const ModelEntry& entry, int64_t place) {
  if (entry.serving.size() != 1 || entry.candidate.has_value()) return false;
  if (place == 0) return true;
  const std::set<int64_t> wanted = WantedOf(entry, RefusedToo::kNo);
  return wanted.size() == 1 && *wanted.begin() == place;
}

}  // namespace

void Reloader::StartLoad(const EntryPtr& entry, int64_t number) {
  ReloadState* const place = &entry->places.at(number);
  const auto task = std::make_shared<LoadTask>();
  task->entry = entry;
  task->place = number;
  task->source = place->seen->source;
  task->config = place->seen->config;
  task->number = number == 0 ? entry->last_number + 1 : number;
  task->record = entry->attempts[number];
  task->forced = place->forced;
  const KnownVersion* const live = LiveOf(*entry);
  task->must_fit = !place->forced && live != nullptr && *live->config == *task->config;
  if (!place->forced && (!place->failure.has_value() || place->failure->source != task->source)) {
    metrics_->ForModel(entry->name)
        ->ObserveStep(VersionState::kSettling,
                      ToSeconds(Clock::Real()->Now() - place->changed_since));
  }
  place->forced = false;
  if (task->forced && std::none_of(entry->places.begin(), entry->places.end(),
                                   [](const auto& other) { return other.second.forced; })) {
    task->calls.swap(entry->calls);
    std::swap(task->calls_result, entry->calls_result);
  }
  QueueLoad(task);
}

void Reloader::StartOverride(const EntryPtr& entry) {
  const auto task = std::make_shared<LoadTask>();
  task->entry = entry;
  task->forced = true;
  task->overrides = std::move(entry->overrides.front().overrides);
  task->calls = {std::move(entry->overrides.front().call)};
  entry->overrides.pop_front();
  task->number = entry->last_number + 1;
  // What the folder holds, where the request does not bring it.
  if (!entry->places.empty() && entry->places.rbegin()->second.seen.has_value()) {
    const ModelObservation& seen = *entry->places.rbegin()->second.seen;
    task->source = seen.source;
    task->config = seen.config;
  }
  task->record = entry->records.Add(task->number, VersionState::kSettling, "", WallNow());
  QueueLoad(task);
}

void Reloader::QueueLoad(const std::shared_ptr<LoadTask>& task) {
  const EntryPtr& entry = task->entry;
  task->model = entry->model;
  task->epoch = entry->epoch;
  const KnownVersion* const live = LiveOf(*entry);
  if (live != nullptr) {
    // Taken here: the locks of a model are not for background threads.
    task->recent =
        entry->model->recent_requests().Of(live->version->number, live->version->weights_id);
    if (ReplacesAll(*entry, task->place)) task->live = live->version;
  }
  entry->records.Set(task->record, VersionState::kSettling, WallNow());
  entry->busy = true;
  Refresh(entry.get());
  const auto run = [this, task] {
    loaders_.Run([this, task] {
      RunLoad(task);
      publishers_.Run([this, task] { FinishLoad(task.get()); });
    });
  };
  if (!entry->candidate.has_value()) return run();
  publishers_.Run([this, task, run] {
    {
      MutexLock change(&task->entry->change_mutex);
      {
        MutexLock lock(&mutex_);
        DropCandidate(task->entry.get(), "a newer file took its place", absl::OkStatus());
      }
      Serve(task->entry);
    }
    run();
  });
}

void Reloader::RunLoad(const std::shared_ptr<LoadTask>& task) {
  const std::string& name = task->entry->name;
  if (task->overrides.has_value()) {
    if (const absl::Status status = PrepareOverride(task.get()); !status.ok()) {
      task->loaded = status;
      return;
    }
  }
  spdlog::info("model '{}': loading {} ({})", name, FileNameOf(task->source),
               Megabytes(task->source.weights->fingerprint.size_bytes));
  task->loaded = loader_->Load(RequestFor(task));
  for (const LoadTask::InlineFile* sent : {&task->inline_weights, &task->inline_program}) {
    if (task->loaded.ok() || sent->file == nullptr) continue;
    // The path of a piece of memory says nothing to the client.
    const absl::Status& failure = task->loaded.status();
    task->loaded = absl::Status(
        failure.code(),
        absl::StrReplaceAll(failure.message(), {{sent->file->path(), Printable(sent->name)}}));
  }
  if (task->loaded.ok() && !task->inline_weights.file && !task->inline_program.file &&
      !IsUnchanged(task->source, scanner_.FolderOf(name))) {
    task->loaded = absl::AbortedError(
        absl::StrCat(FileNameOf(task->source), " or its config.pbtxt changed while it was read"));
  }
}

absl::Status Reloader::TakeInlineFiles(std::map<std::string, std::string> files, LoadTask* task) {
  ModelSource& source = task->source;
  const bool was_alone = source.program.has_value() && source.program == source.weights;
  for (auto& [name, bytes] : files) {
    const bool is_program = IsProgramName(name, *task->config);
    LoadTask::InlineFile& sent = is_program ? task->inline_program : task->inline_weights;
    if (sent.file != nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("expected one weights file and perhaps one program, got two ",
                       is_program ? "programs" : "weights files", ": '", Printable(sent.name),
                       "' and '", Printable(name), "'"));
    }
    auto file = InlineWeights::Create(bytes);
    if (!file.ok()) return file.status();
    bytes = std::string();  // not needed twice
    sent = {*std::move(file), name};
    absl::StatusOr<SourceFile> seen = ObserveFile(sent.file->path());
    if (!seen.ok()) return seen.status();
    (is_program ? source.program : source.weights) = *std::move(seen);
  }
  if (task->inline_weights.file != nullptr) source.shards.clear();
  // A program that comes alone is its own weights where the folder has no others.
  if (task->inline_weights.file == nullptr && (was_alone || !source.weights.has_value())) {
    source.weights = source.program;
  }
  return absl::OkStatus();
}

absl::Status Reloader::PrepareOverride(LoadTask* task) {
  const std::string& name = task->entry->name;
  LoadOverrides overrides = *std::move(task->overrides);
  if (!overrides.config_json.empty()) {
    absl::StatusOr<ModelConfig> config = parse_json_(overrides.config_json, name);
    if (!config.ok()) return config.status();
    task->config = std::make_shared<const ModelConfig>(*std::move(config));
  }
  if (task->config == nullptr) task->config = std::make_shared<const ModelConfig>();
  if (!overrides.config_json.empty()) {
    // What the configuration names lies in the model's folder.
    const std::pair<const std::string&, std::optional<SourceFile>&> named[] = {
        {task->config->weights_file, task->source.weights},
        {task->config->program_file, task->source.program}};
    for (const auto& [file, place] : named) {
      if (file.empty() || overrides.files.contains(file)) continue;
      absl::StatusOr<SourceFile> seen =
          ObserveFile(absl::StrCat(scanner_.FolderOf(name), "/", file));
      if (!seen.ok()) return seen.status();
      place = *std::move(seen);
    }
  }
  if (absl::Status taken = TakeInlineFiles(std::move(overrides.files), task); !taken.ok()) {
    return taken;
  }
  if (!task->source.weights.has_value()) {
    return absl::FailedPreconditionError(
        "the model's folder holds no weights that the configuration could be used with");
  }
  task->overrides.emplace();  // the bytes are not needed twice
  return absl::OkStatus();
}

LoadRequest Reloader::RequestFor(const std::shared_ptr<LoadTask>& task) {
  LoadRequest request{.model = task->entry->name,
                      .weights_path = task->source.weights->path,
                      .config = *task->config,
                      .number = task->number};
  if (task->source.program.has_value()) request.program_path = task->source.program->path;
  if (!task->source.hugging_face.empty()) {
    request.hugging_face_path = task->source.hugging_face.front().path;
  }
  request.from_client = task->inline_program.file != nullptr ||
                        (task->inline_weights.file != nullptr && !task->source.program.has_value());
  for (const SourceFile& golden : task->source.golden) {
    request.golden_paths.push_back(golden.path);
  }
  request.recent = task->recent;
  request.release_retained = [this, entry = task->entry](Retained whose) {
    return ReleaseRetained(whose == Retained::kOfThisModel ? entry.get() : nullptr);
  };
  if (gate_ != nullptr && task->live != nullptr && task->config->swap != SwapMode::kBeside) {
    request.live = task->live;
    request.gate = gate_;
    // Not the task: it owns what will own this.
    request.retire_live = [this, entry = task->entry, live = task->live](const std::string& why) {
      LoseVersion(entry, live.get(), why);
    };
  }
  request.on_step = [this, task](VersionState step, Duration time) { OnStep(task, step, time); };
  return request;
}

void Reloader::OnStep(const std::shared_ptr<LoadTask>& task, VersionState step, Duration time) {
  metrics_->ForModel(task->entry->name)->ObserveStep(step, ToSeconds(time));
  task->reached = std::max(task->reached, step);
  absl::StrAppend(&task->phases, task->phases.empty() ? "" : ", ",
                  std::string(VersionStateName(step)), " ",
                  absl::StrFormat("%.3f s", ToSeconds(time)));
  // A background thread touches no lock that a request takes.
  publishers_.Run([this, entry = task->entry, record = task->record, step] {
    MutexLock lock(&mutex_);
    entry->records.Advance(record, step, WallNow());
    Refresh(entry.get());
  });
}

void Reloader::FinishLoad(LoadTask* task) {
  ModelEntry* const entry = task->entry.get();
  const std::string& name = entry->name;
  absl::Status result = Check(task);
  std::unique_ptr<InPlaceChange> in_place;
  // Owned by the reaper whatever becomes of it: freeing weights takes long.
  std::shared_ptr<const ModelVersion> version;
  if (task->loaded.ok()) {
    in_place = std::move(task->loaded->in_place);
    if (task->inline_weights.file != nullptr) {
      task->loaded->version->weights_path = task->inline_weights.name;
    } else if (task->source.weights == task->source.program && task->inline_program.file) {
      task->loaded->version->weights_path = task->inline_program.name;
    }
    MutexLock lock(&mutex_);
    // The weights that answered before a restart come back under their number.
    if (task->place == 0 && !task->overrides.has_value() && entry->restored &&
        task->loaded->version->weights_id == entry->last_weights_id) {
      task->loaded->version->number = entry->last_number;
    }
    version = reaper_->Own(std::move(task->loaded->version));
  }
  task->inline_weights = {};
  task->inline_program = {};
  if (result.ok()) {
    const TimePoint start = Clock::Real()->Now();
    metrics_->ForModel(name)->CountWeightBytes(version->weights_bytes - version->shared_bytes,
                                               version->shared_bytes);
    Arrival arrival;
    {
      MutexLock change(&entry->change_mutex);
      arrival = Arrive(*task, version, in_place == nullptr ? nullptr : task->live.get());
      if (arrival.wanted) {
        Serve(task->entry);
        if (in_place != nullptr) in_place->Commit();
      }
    }
    if (!arrival.wanted) {
      result = absl::AbortedError(
          "the model was unloaded, pinned or rolled back, or the server stopped, meanwhile");
    } else {
      if (arrival.served) {
        metrics_->ForModel(name)->ObserveStep(VersionState::kPublished,
                                              ToSeconds(Clock::Real()->Now() - start));
      }
      spdlog::info("model '{}': version {} {} {} (weights {}, {}, {}{}{}{}{})", name,
                   version->number, arrival.says, Printable(version->architecture),
                   version->weights_id, FileNameOf(task->source), Megabytes(version->weights_bytes),
                   task->phases.empty() ? "" : "; ", task->phases,
                   version->provenance.empty() ? "" : "; ", version->provenance);
    }
  } else {
    Fail(*task, result);
  }
  // Where nobody wants the version, the weights that it was written over come back here.
  in_place.reset();
  version.reset();

  MutexLock lock(&mutex_);
  const VersionRecord* const record = entry->records.Find(task->record);
  if (!result.ok() && record != nullptr && record->state <= VersionState::kChecked) {
    entry->records.Set(task->record, VersionState::kRejected, WallNow(), Text(result));
  }
  entry->busy = false;
  Refresh(entry);
  Answer(&task->calls, task->calls_result.ok() ? result : task->calls_result);
  if (task->forced && !entry->calls.empty() && entry->calls_result.ok()) {
    entry->calls_result = result;
  }
  watcher_->LookNow();
}

absl::Status Reloader::Check(LoadTask* task) {
  if (!task->loaded.ok()) return task->loaded.status();
  const ModelVersion& version = *task->loaded->version;
  const ModelEntry& entry = *task->entry;
  MutexLock lock(&mutex_);
  const KnownVersion* const live = LiveOf(entry);
  if (task->must_fit && live != nullptr) {
    absl::Status status = CheckReplaces(*live->version, version);
    if (!status.ok()) return status;
  }
  if (task->forced || !entry.wishes.pinned || !entry.restored) return absl::OkStatus();
  const std::set<int64_t> wanted = WantedOf(entry, RefusedToo::kNo);
  const bool is_to_be_live = wanted.empty() || task->place == *wanted.rbegin();
  if (!is_to_be_live || version.weights_id == entry.last_weights_id) return absl::OkStatus();
  task->other_than_pinned = true;
  return absl::FailedPreconditionError(absl::StrCat(
      "the model is pinned to the weights ", Printable(entry.last_weights_id),
      ", which answered before the restart, and the file holds ", Printable(version.weights_id),
      "; RepositoryModelLoad accepts it, and so does taking the pin away"));
}

Reloader::Arrival Reloader::Arrive(const LoadTask& task,
                                   std::shared_ptr<const ModelVersion> version,
                                   const ModelVersion* overwritten) {
  ModelEntry* const entry = task.entry.get();
  MutexLock lock(&mutex_);
  const bool pinned = entry->wishes.pinned && !entry->restored && !task.forced;
  if (stopped_ || pinned || entry->epoch != task.epoch || entry->model != task.model) {
    return {.wanted = false};
  }
  ForgetLost(entry);
  const KnownVersion* const live = LiveOf(*entry);
  // A number below the live one answers only those who ask for it.
  const bool leads = live == nullptr || task.place == 0 || version->number >= live->version->number;
  const Entrance entrance =
      leads ? ChooseEntrance(*version, live == nullptr ? nullptr : live->version.get(),
                             entry->last_weights_id)
            : Entrance::kPublish;
  entry->records.Describe(task.record, *version);
  KnownVersion known{.version = std::move(version),
                     .source = task.source,
                     .config = task.config,
                     .place = task.place,
                     .overridden = task.overrides.has_value(),
                     .record = task.record};
  ModelMetrics* const metrics = metrics_->ForModel(entry->name);
  switch (entrance) {
    case Entrance::kPublish:
      Install(entry, std::move(known), overwritten);
      metrics->CountLoad(LoadOutcome::kPublished);
      return {.served = true, .says = "serves"};
    case Entrance::kHold:
      Begin(entry, std::move(known), false);
      metrics->CountLoad(LoadOutcome::kHeld);
      return {.says = "is held until it is promoted:"};
    case Entrance::kCanary:
      Begin(entry, std::move(known), true);
      return {.says = "answers a share of the batches:"};
  }
  return {};
}

void Reloader::Fail(const LoadTask& task, const absl::Status& status) {
  ModelEntry* const entry = task.entry.get();
  const bool not_admitted =
      absl::IsResourceExhausted(status) && task.reached < VersionState::kAdmitted;
  const TimePoint now = Clock::Real()->Now();
  std::optional<TimePoint> retry;
  std::string serving;
  {
    MutexLock lock(&mutex_);
    if (stopped_ || entry->epoch != task.epoch) return;
    const auto place = entry->places.find(task.place);
    if (!task.overrides.has_value() && place != entry->places.end()) {
      if (task.other_than_pinned) {
        RecordOtherThanPinned(&place->second, task.source, status, now);
      } else {
        retry = RecordFailure(&place->second, &entry->refused, options_.times, task.source, status,
                              now);
      }
    }
    entry->records.Set(task.record, VersionState::kRejected, WallNow(), Text(status));
    serving = LiveText(*entry);
  }
  metrics_->ForModel(entry->name)
      ->CountLoad(not_admitted
                      ? LoadOutcome::kNoMemory
                      : (retry.has_value() ? LoadOutcome::kRetrying : LoadOutcome::kRejected));
  if (retry.has_value()) {
    spdlog::warn("model '{}': {} is not served yet: {}; trying again in {:.1f} s; {}", entry->name,
                 FileNameOf(task.source), Text(status), ToSeconds(*retry - now), serving);
  } else {
    spdlog::warn("model '{}': {} refused: {}; {}", entry->name, FileNameOf(task.source),
                 Text(status), serving);
  }
}

}  // namespace sconce
