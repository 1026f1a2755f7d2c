// What is in service: publishing, holding, canaries, retaining and withdrawing versions.

#include <spdlog/spdlog.h>

#include <algorithm>
#include <thread>

#include "server/reload/promotion.h"
#include "server/reload/reloader.h"
#include "server/reload/reloader_text.h"
#include "server/reload/retention.h"
#include "server/reload/version_policy.h"

namespace sconce {
namespace {

// How often a canary is judged.
constexpr std::chrono::milliseconds kJudgeInterval(200);
// A retained version answers nothing, but a batch that began before may not have ended.
constexpr std::chrono::seconds kReleasePatience(5);

std::vector<ModelMemory> MemoryOf(const Serving& serving) {
  std::map<std::pair<std::string, std::string>, int64_t> bytes;
  const auto add = [&bytes](const ModelVersion& version) {
    for (const DeviceFootprint& footprint : version.footprints) {
      bytes[{footprint.device, "weights"}] += footprint.weights_bytes;
      bytes[{footprint.device, "workspace"}] += footprint.workspace_bytes;
      bytes[{footprint.device, "graphs"}] += footprint.graphs_bytes;
      bytes[{footprint.device, "staging"}] += footprint.staging_bytes;
    }
  };
  if (serving.live != nullptr) add(*serving.live);
  for (const auto& [number, version] : serving.others) add(*version);
  if (serving.canary != nullptr) add(*serving.canary);
  std::vector<ModelMemory> memory;
  for (const auto& [key, value] : bytes) memory.push_back({key.first, key.second, value});
  return memory;
}

std::vector<VersionDeviation> DeviationsOf(const Serving& serving) {
  std::vector<VersionDeviation> deviations;
  const auto add = [&deviations](const ModelVersion& version) {
    for (const PreparedDeviation& measured : version.deviations) {
      if (!measured.not_measured.empty()) continue;
      deviations.push_back({version.number, measured.device, measured.absolute, measured.relative});
    }
  };
  if (serving.live != nullptr) add(*serving.live);
  for (const auto& [number, version] : serving.others) add(*version);
  if (serving.canary != nullptr) add(*serving.canary);
  return deviations;
}

bool Answers(const Serving& serving, const ModelVersion* version) {
  if (serving.live.get() == version || serving.canary.get() == version) return true;
  return std::any_of(serving.others.begin(), serving.others.end(),
                     [version](const auto& other) { return other.second.get() == version; });
}

}  // namespace

void Reloader::Install(ModelEntry* entry, KnownVersion next, const ModelVersion* overwritten) {
  const std::shared_ptr<const ModelVersion> version = next.version;
  std::vector<KnownVersion> leaving;
  for (auto known = entry->serving.begin(); known != entry->serving.end();) {
    // What came from one file makes way for what comes from numbered folders, and the reverse.
    const bool stays = next.place != 0 && known->second.place != 0 &&
                       known->first != version->number &&
                       known->second.version.get() != overwritten;
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
    if (known.version.get() == overwritten) {
      entry->records.Set(known.record, VersionState::kRetired, WallNow());
    } else {
      Retain(entry, std::move(known), version.get());
    }
  }
  ReloadState* const place = &entry->places[next.place];
  if (next.overridden) {
    place->told = absl::OkStatus();
  } else {
    RecordLoaded(place, &entry->refused, next.source);
  }
  entry->wishes.overridden = next.overridden;
  entry->wishes.unloaded = false;
  entry->wishes.loaded_on_command = options_.control == ControlMode::kCommand;
  if (next.place == 0) entry->established = true;
  entry->last_number = std::max(entry->last_number, version->number);
  entry->restored = false;
  entry->lost.clear();
  entry->records.Describe(next.record, *version);
  entry->records.Set(next.record, VersionState::kPublished, WallNow());
  entry->serving[version->number] = std::move(next);
  entry->last_weights_id = LiveOf(*entry)->version->weights_id;
  TrimRetained(entry, LiveOf(*entry)->config->retained_versions);
  entry->changing = true;
}

void Reloader::Retain(ModelEntry* entry, KnownVersion leaving, const ModelVersion* next) {
  if (!IsWorthRetaining(*leaving.version, next)) {
    entry->records.Set(leaving.record, VersionState::kRetired, WallNow());
    return;
  }
  leaving.retained_as = ++last_retained_;
  entry->records.Set(leaving.record, VersionState::kRetained, WallNow());
  entry->retained.push_back(std::move(leaving));
}

void Reloader::TrimRetained(ModelEntry* entry, int64_t limit) {
  for (const KnownVersion& known : TakeBeyond(&entry->retained, limit)) {
    entry->records.Set(known.record, VersionState::kRetired, WallNow());
  }
}

void Reloader::Begin(ModelEntry* entry, KnownVersion known, bool canary) {
  Candidate candidate{.known = std::move(known), .trial = nullptr, .since = Clock::Real()->Now()};
  const ModelVersion& version = *candidate.known.version;
  if (canary) {
    candidate.trial =
        std::make_shared<CanaryTrial>(LiveOf(*entry)->version->number, version.number);
  }
  if (!candidate.known.overridden) {
    RecordCandidate(&entry->places[candidate.known.place], &entry->refused, candidate.known.source);
  }
  entry->records.Set(candidate.known.record, canary ? VersionState::kCanary : VersionState::kHeld,
                     WallNow());
  entry->last_number = std::max(entry->last_number, version.number);
  entry->candidate = std::move(candidate);
  entry->changing = true;
  canaries_changed_.NotifyAll();
}

void Reloader::DropCandidate(ModelEntry* entry, const std::string& why,
                             const absl::Status& refusal) {
  if (!entry->candidate.has_value()) return;
  const KnownVersion known = TakeCandidate(entry);
  const auto place = entry->places.find(known.place);
  if (place != entry->places.end() && !known.overridden) {
    place->second.candidate.reset();
    if (!refusal.ok()) RecordRefused(&place->second, &entry->refused, known.source, refusal);
  }
  entry->records.Set(known.record, refusal.ok() ? VersionState::kRetired : VersionState::kRejected,
                     WallNow(), why);
  entry->changing = true;
}

void Reloader::DropAll(ModelEntry* entry) {
  DropCandidate(entry, "", absl::OkStatus());
  for (const auto& [number, known] : entry->serving) {
    entry->records.Set(known.record, VersionState::kRetired, WallNow());
  }
  entry->serving.clear();
  for (auto& [number, place] : entry->places) place.live.reset();
  TrimRetained(entry, 0);
  entry->established = false;
  entry->wishes.overridden = false;
  entry->lost.clear();
  entry->changing = true;
}

void Reloader::Serve(const EntryPtr& entry) {
  Serving serving;
  std::shared_ptr<Model> model;
  {
    MutexLock lock(&mutex_);
    serving = ServingOf(*entry);
    model = entry->model;
    // Whoever sees the new version is told of no error from before it.
    Refresh(entry.get());
  }
  ModelMetrics* const metrics = metrics_->ForModel(entry->name);
  if (model != nullptr) {
    if (serving.live == nullptr) {
      registry_->Retire(model);
      metrics->SetServingVersion(0, "");
    } else {
      model->recent_requests().SetCapacity(serving.live->config.proof.agreement_requests);
      registry_->Serve(model, serving);
      metrics->SetServingVersion(serving.live->number, serving.live->weights_id);
    }
    metrics->SetMemory(MemoryOf(serving));
    metrics->SetDeviations(DeviationsOf(serving));
  }
  MutexLock lock(&mutex_);
  entry->changing = false;
  Refresh(entry.get());
}

void Reloader::ForgetLost(ModelEntry* entry) {
  if (entry->changing || entry->model == nullptr) return;
  const Serving serving = entry->model->serving();
  for (auto known = entry->serving.begin(); known != entry->serving.end();) {
    if (Answers(serving, known->second.version.get())) {
      ++known;
      continue;
    }
    const std::string error = absl::StrCat("no device that it was on works any more: ",
                                           entry->model->lost_because());
    entry->lost = absl::StrCat("version ", known->first, ": ", error);
    entry->records.Set(known->second.record, VersionState::kRetired, WallNow(), error);
    known = entry->serving.erase(known);
    Refresh(entry);
  }
  if (entry->candidate.has_value() && entry->candidate->trial != nullptr &&
      !Answers(serving, entry->candidate->known.version.get())) {
    DropCandidate(entry, "no device that it, or the live version, was on works any more",
                  absl::OkStatus());
    entry->changing = false;
    Refresh(entry);
  }
}

void Reloader::DropReplacedCandidate(const EntryPtr& entry) {
  {
    MutexLock change(&entry->change_mutex);
    {
      MutexLock lock(&mutex_);
      DropCandidate(entry.get(), "the folder holds something else by now", absl::OkStatus());
    }
    Serve(entry);
  }
  EndTask(entry.get());
}

void Reloader::EndTask(ModelEntry* entry) {
  MutexLock lock(&mutex_);
  entry->busy = false;
  Refresh(entry);
  watcher_->LookNow();
}

void Reloader::WithdrawUnwanted(const EntryPtr& entry) {
  std::vector<int64_t> withdrawn;
  {
    MutexLock change(&entry->change_mutex);
    {
      MutexLock lock(&mutex_);
      withdrawn = VersionsToWithdraw(WantedOf(*entry, RefusedToo::kNo), NumberedThatServe(*entry));
      for (const int64_t number : withdrawn) {
        KnownVersion known = std::move(entry->serving.at(number));
        entry->serving.erase(number);
        const auto place = entry->places.find(known.place);
        if (place != entry->places.end()) place->second.live.reset();
        Retain(entry.get(), std::move(known), nullptr);
      }
      if (const KnownVersion* const live = LiveOf(*entry)) {
        entry->last_weights_id = live->version->weights_id;
        TrimRetained(entry.get(), live->config->retained_versions);
      }
      entry->changing = true;
    }
    Serve(entry);
  }
  for (const int64_t number : withdrawn) {
    spdlog::info("model '{}': version {} is withdrawn, version_policy does not want it any more",
                 entry->name, number);
  }
  EndTask(entry.get());
}

void Reloader::LoseVersion(const EntryPtr& entry, const ModelVersion* version,
                           const std::string& reason) {
  MutexLock change(&entry->change_mutex);
  {
    MutexLock lock(&mutex_);
    std::erase_if(entry->retained, [&](const KnownVersion& known) {
      if (known.version.get() != version) return false;
      entry->records.Set(known.record, VersionState::kRetired, WallNow(), reason);
      return true;
    });
    const auto known = entry->serving.find(version->number);
    if (known == entry->serving.end() || known->second.version.get() != version) return;
    entry->records.Set(known->second.record, VersionState::kRetired, WallNow(), reason);
    const auto place = entry->places.find(known->second.place);
    if (place != entry->places.end()) place->second.live.reset();
    entry->serving.erase(known);
    entry->lost = absl::StrCat("version ", version->number, " is out of service: ", reason);
    entry->changing = true;
  }
  Serve(entry);
  spdlog::error("model '{}': version {} is out of service: {}", entry->name, version->number,
                reason);
}

bool Reloader::ReleaseRetained(const ModelEntry* of) {
  EntryPtr holder;
  std::weak_ptr<const ModelVersion> released;
  {
    MutexLock lock(&mutex_);
    if (stopped_) return false;
    for (const auto& [name, entry] : entries_) {
      if (entry->retained.empty() || (of != nullptr && of != entry.get())) continue;
      if (holder == nullptr ||
          entry->retained.front().retained_as < holder->retained.front().retained_as) {
        holder = entry;
      }
    }
    if (holder == nullptr) return false;
    const KnownVersion& oldest = holder->retained.front();
    released = oldest.version;
    holder->records.Set(oldest.record, VersionState::kRetired, WallNow(),
                        "let go for the memory that a load needs");
    spdlog::info("model '{}': version {} is not retained any more, a load needs its memory",
                 holder->name, oldest.version->number);
    holder->retained.pop_front();
  }
  RefreshLater(holder);
  const TimePoint deadline = Clock::Real()->Now() + kReleasePatience;
  while (!released.expired() && Clock::Real()->Now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  reaper_->AwaitDropped(kReleasePatience);
  return true;
}

void Reloader::JudgeCanaries() {
  MutexLock lock(&mutex_);
  while (!stopped_) {
    const TimePoint now = Clock::Real()->Now();
    TimePoint next = TimePoint::max();
    for (const auto& [name, entry] : entries_) {
      if (!entry->candidate.has_value() || entry->candidate->trial == nullptr) continue;
      Candidate& candidate = *entry->candidate;
      const CanaryConfig& config = candidate.known.version->config.canary;
      const CanaryVerdict verdict = JudgeCanary(config, candidate.trial->live(),
                                                candidate.trial->canary(), now - candidate.since);
      if (verdict.kind == CanaryVerdict::Kind::kGoOn) {
        next = std::min(
            {next, now + kJudgeInterval,
             std::max(candidate.since + config.duration, now + std::chrono::milliseconds(1))});
      } else if (!candidate.judged) {
        candidate.judged = true;
        publishers_.Run([this, entry = entry, version = candidate.known.version, verdict] {
          EndCanary(entry, version, verdict);
        });
      }
    }
    if (next == TimePoint::max()) {
      canaries_changed_.Wait(&mutex_);
    } else {
      canaries_changed_.WaitUntil(&mutex_, next);
    }
  }
}

void Reloader::EndCanary(const EntryPtr& entry, const std::shared_ptr<const ModelVersion>& canary,
                         const CanaryVerdict& verdict) {
  const bool good = verdict.kind == CanaryVerdict::Kind::kPromote;
  ModelMetrics* const metrics = metrics_->ForModel(entry->name);
  bool held = false;
  {
    MutexLock change(&entry->change_mutex);
    {
      MutexLock lock(&mutex_);
      ForgetLost(entry.get());
      if (stopped_ || !entry->candidate.has_value() || entry->candidate->known.version != canary) {
        return;
      }
      if (!good) {
        const std::string why = absl::StrCat(FileNameOf(entry->candidate->known.source),
                                             " was withdrawn: ", verdict.reason);
        DropCandidate(entry.get(), why, absl::FailedPreconditionError(why));
      } else if (ChooseEntranceAfterCanary(*canary) == Entrance::kHold) {
        held = true;
        Begin(entry.get(), TakeCandidate(entry.get()), false);
      } else {
        Install(entry.get(), TakeCandidate(entry.get()), nullptr);
      }
    }
    Serve(entry);
  }
  metrics->CountLoad(held ? LoadOutcome::kHeld
                          : (good ? LoadOutcome::kPublished : LoadOutcome::kWithdrawn));
  if (good) {
    spdlog::info("model '{}': version {} has done well as a canary, {}", entry->name,
                 canary->number, held ? "and is held until it is promoted" : "and serves");
  } else {
    spdlog::warn("model '{}': version {} is withdrawn: {}", entry->name, canary->number,
                 verdict.reason);
  }
  watcher_->LookNow();
}

}  // namespace sconce
