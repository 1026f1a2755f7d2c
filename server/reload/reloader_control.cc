// What operators ask for.

#include <spdlog/spdlog.h>

#include <algorithm>

#include "server/reload/model_folder.h"
#include "server/reload/reloader.h"
#include "server/reload/reloader_text.h"
#include "server/reload/retention.h"

namespace sconce {
namespace {

// A disk that hangs keeps an answer back no longer than this.
constexpr std::chrono::seconds kSavePatience(1);

}  // namespace

absl::StatusOr<Reloader::EntryPtr> Reloader::FindModel(const std::string& name) {
  const auto found = entries_.find(name);
  if (found == entries_.end() || found->second->model == nullptr) return NoSuchModel(name);
  return found->second;
}

absl::Status Reloader::CheckMayChange(const std::string& what) const {
  if (stopped_) return ShuttingDown();
  if (options_.control == ControlMode::kFixed) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the server serves what it found when it started (--control fixed) and nothing is ", what));
  }
  return absl::OkStatus();
}

void Reloader::Overtake(ModelEntry* entry, const absl::Status& status) {
  ++entry->epoch;
  for (auto& [number, place] : entry->places) place.forced = false;
  AnswerAll(entry, status);
  for (NewCall& waiting : new_calls_) {
    if (waiting.model != entry->name) continue;
    LoadCalls calls = {waiting.call};
    Answer(&calls, status);
  }
  std::erase_if(new_calls_, [](const NewCall& waiting) { return waiting.call->done; });
}

void Reloader::Settle() {
  {
    MutexLock lock(&mutex_);
    if (watcher_ != nullptr) watcher_->LookNow();
  }
  keeper_.Changed();
  keeper_.AwaitSaved(kSavePatience);
}

absl::Status Reloader::Load(const std::string& model, LoadOverrides overrides) {
  const auto call = std::make_shared<LoadCall>();
  {
    MutexLock lock(&mutex_);
    if (absl::Status status = CheckMayChange("loaded after that"); !status.ok()) return status;
    if (watcher_ == nullptr) {
      return absl::UnavailableError("the model repository has not been looked at yet");
    }
    if (!overrides.files.empty() && !IsModelName(model)) {
      return absl::InvalidArgumentError(
          absl::StrCat("expected a model's name, made of letters, digits, '.', '_' and '-', got '",
                       Printable(model), "'"));
    }
    if (!overrides.config_json.empty() && parse_json_ == nullptr) {
      return absl::UnimplementedError("a configuration cannot be given with a load");
    }
    new_calls_.push_back({model, std::move(overrides), call});
    watcher_->LookNow();
    while (!call->done && !stopped_) answered_.Wait(&mutex_);
    if (!call->done) return ShuttingDown();
    if (!call->result.ok()) return call->result;
  }
  keeper_.AwaitSaved(kSavePatience);
  return absl::OkStatus();
}

absl::Status Reloader::Unload(const std::string& name) {
  EntryPtr entry;
  {
    MutexLock lock(&mutex_);
    if (absl::Status status = CheckMayChange("unloaded"); !status.ok()) return status;
    absl::StatusOr<EntryPtr> found = FindModel(name);
    if (!found.ok()) return found.status();
    entry = *std::move(found);
  }
  {
    MutexLock change(&entry->change_mutex);
    {
      MutexLock lock(&mutex_);
      if (entry->model == nullptr) return NoSuchModel(name);
      Overtake(entry.get(), absl::AbortedError("the model was unloaded meanwhile"));
      DropAll(entry.get());
      entry->wishes.unloaded = true;
      entry->wishes.loaded_on_command = false;
    }
    Serve(entry);
  }
  spdlog::info("model '{}': unloaded on request", name);
  Settle();
  return absl::OkStatus();
}

absl::StatusOr<int64_t> Reloader::Rollback(const std::string& name, int64_t number) {
  EntryPtr entry;
  {
    MutexLock lock(&mutex_);
    if (absl::Status status = CheckMayChange("rolled back"); !status.ok()) return status;
    absl::StatusOr<EntryPtr> found = FindModel(name);
    if (!found.ok()) return found.status();
    entry = *std::move(found);
  }
  int64_t answers = 0;
  {
    MutexLock change(&entry->change_mutex);
    {
      MutexLock lock(&mutex_);
      if (entry->model == nullptr) return NoSuchModel(name);
      ForgetLost(entry.get());
      const KnownVersion* const live = LiveOf(*entry);
      const bool is_canary = entry->candidate.has_value() && entry->candidate->trial != nullptr;
      if (live != nullptr && entry->candidate.has_value() &&
          (number == live->version->number || (number == 0 && is_canary))) {
        // Back to what answered before the canary began.
        answers = live->version->number;
        const std::string why =
            absl::StrCat(FileNameOf(entry->candidate->known.source), " was withdrawn on request");
        DropCandidate(entry.get(), why, absl::FailedPreconditionError(why));
        Overtake(entry.get(), absl::AbortedError("the model was rolled back meanwhile"));
      } else {
        absl::StatusOr<size_t> chosen = ChooseRollback(
            entry->retained, live == nullptr ? nullptr : live->version.get(), number);
        if (!chosen.ok()) return chosen.status();
        answers = entry->retained[*chosen].version->number;
        Overtake(entry.get(), absl::AbortedError("the model was rolled back meanwhile"));
        RollBackTo(entry.get(), *chosen);
      }
    }
    Serve(entry);
  }
  spdlog::info("model '{}': rolled back on request, version {} serves", name, answers);
  Settle();
  return answers;
}

void Reloader::RollBackTo(ModelEntry* entry, size_t retained) {
  KnownVersion target = std::move(entry->retained[retained]);
  entry->retained.erase(entry->retained.begin() + static_cast<ptrdiff_t>(retained));
  const std::string number = std::to_string(target.version->number);
  const int64_t limit = target.config->retained_versions;
  DropCandidate(entry, absl::StrCat("the model was rolled back to version ", number),
                absl::OkStatus());
  for (const auto& [place, state] : entry->places) {
    // What is above a numbered version would answer in its place again.
    if (target.place == 0 || place >= target.place) {
      RefuseWhatIsThere(entry, place, target.source, number);
    }
  }
  std::vector<KnownVersion> leaving;
  for (auto known = entry->serving.begin(); known != entry->serving.end();) {
    const bool stays =
        target.place != 0 && known->second.place != 0 && known->first < target.version->number;
    if (stays) {
      ++known;
    } else {
      leaving.push_back(std::move(known->second));
      known = entry->serving.erase(known);
    }
  }
  for (KnownVersion& known : leaving) {
    const auto place = entry->places.find(known.place);
    if (place != entry->places.end()) place->second.live.reset();
    Retain(entry, std::move(known), target.version.get());
  }
  const auto place = entry->places.find(target.place);
  if (place != entry->places.end() && !target.overridden) place->second.live = target.source;
  entry->wishes.overridden = target.overridden;
  entry->wishes.unloaded = false;
  entry->last_weights_id = target.version->weights_id;
  entry->restored = false;
  entry->lost.clear();
  entry->records.Set(target.record, VersionState::kPublished, WallNow());
  entry->serving[target.version->number] = std::move(target);
  TrimRetained(entry, limit);
  entry->changing = true;
}

void Reloader::RefuseWhatIsThere(ModelEntry* entry, int64_t place, const ModelSource& but,
                                 const std::string& number) {
  ReloadState* const state = &entry->places.at(place);
  if (!state->seen.has_value() || !state->seen->status.ok() || state->seen->source == but) return;
  RecordRefused(state, &entry->refused, state->seen->source,
                absl::FailedPreconditionError(
                    absl::StrCat(FileNameOf(state->seen->source),
                                 " was there when the model was rolled back "
                                 "to version ",
                                 number, "; it is not loaded until it changes, or on request")));
}

absl::StatusOr<int64_t> Reloader::Promote(const std::string& name, int64_t number) {
  EntryPtr entry;
  {
    MutexLock lock(&mutex_);
    if (stopped_) return ShuttingDown();
    absl::StatusOr<EntryPtr> found = FindModel(name);
    if (!found.ok()) return found.status();
    entry = *std::move(found);
  }
  int64_t answers = 0;
  const TimePoint start = Clock::Real()->Now();
  {
    MutexLock change(&entry->change_mutex);
    {
      MutexLock lock(&mutex_);
      ForgetLost(entry.get());
      if (!entry->candidate.has_value()) {
        return absl::FailedPreconditionError("there is no version to promote");
      }
      answers = entry->candidate->known.version->number;
      if (number != 0 && number != answers) {
        return absl::NotFoundError(absl::StrCat(
            "version ", number, " does not wait to be promoted, version ", answers, " does"));
      }
      Install(entry.get(), TakeCandidate(entry.get()), nullptr);
    }
    Serve(entry);
  }
  ModelMetrics* const metrics = metrics_->ForModel(name);
  metrics->CountLoad(LoadOutcome::kPublished);
  metrics->ObserveStep(VersionState::kPublished, ToSeconds(Clock::Real()->Now() - start));
  spdlog::info("model '{}': version {} is promoted on request and serves", name, answers);
  Settle();
  return answers;
}

absl::Status Reloader::SetPinned(const std::string& name, bool pinned) {
  {
    MutexLock lock(&mutex_);
    if (absl::Status status = CheckMayChange("followed"); !status.ok()) return status;
    absl::StatusOr<EntryPtr> found = FindModel(name);
    if (!found.ok()) return found.status();
    ModelEntry* const entry = found->get();
    if (entry->wishes.pinned != pinned) {
      entry->wishes.pinned = pinned;
      spdlog::info("model '{}': {} on request", name,
                   pinned ? "pinned to what answers" : "follows its folder again");
    }
    if (!pinned) {
      for (auto& [number, place] : entry->places) RecordUnpinned(&place);
    }
    Refresh(entry);
  }
  Settle();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ModelStatus>> Reloader::Status(const std::string& model) {
  std::vector<ModelStatus> all;
  MutexLock lock(&mutex_);
  if (stopped_) return ShuttingDown();
  for (const auto& [name, entry] : entries_) {
    if (entry->model == nullptr || (!model.empty() && name != model)) continue;
    all.push_back({.model = name,
                   .pinned = entry->wishes.pinned,
                   .unloaded = entry->wishes.unloaded,
                   .inline_weights = entry->wishes.overridden,
                   .serving = entry->model->serving(),
                   .versions = entry->records.list(),
                   .last_error = entry->model->progress().last_error});
  }
  if (all.empty() && !model.empty()) return NoSuchModel(model);
  return all;
}

}  // namespace sconce
