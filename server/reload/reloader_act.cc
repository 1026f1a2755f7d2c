// Decisions: what the policies say of each model, carried out or handed to other threads.

#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>

#include "server/reload/reloader.h"
#include "server/reload/reloader_text.h"
#include "server/reload/version_policy.h"

namespace sconce {
namespace {

bool IsAnyForced(const ModelEntry& entry) {
  return std::any_of(entry.places.begin(), entry.places.end(),
                     [](const auto& place) { return place.second.forced; });
}

}  // namespace

TimePoint Reloader::Act(const EntryPtr& entry, TimePoint now, WallTime wall_now) {
  ForgetLost(entry.get());
  if (!entry->overrides.empty()) {
    StartOverride(entry);
    return TimePoint::max();
  }
  const Standing standing = StandingOf(*entry);
  if (entry->missing_since.has_value()) {
    if (StaysWithoutFolder(options_.control, entry->wishes, standing)) return TimePoint::max();
    const TimePoint gone = GoneAt(*entry->missing_since, options_.times);
    if (now < gone) return gone;
    entry->busy = true;
    publishers_.Run([this, entry] { RemoveModel(entry); });
    return TimePoint::max();
  }

  const bool following = FollowsFolder(options_.control, entry->wishes, standing);
  const std::set<int64_t> wanted = WantedOf(*entry, RefusedToo::kNo);
  std::vector<int64_t> numbers;
  for (const auto& [number, place] : entry->places) numbers.push_back(number);
  TimePoint next = TimePoint::max();
  // The highest first: it is the one that is to answer.
  for (auto number = numbers.rbegin(); number != numbers.rend(); ++number) {
    const ReloadState& place = entry->places.at(*number);
    const bool refused =
        place.seen.has_value() && entry->refused.Find(place.seen->source).has_value();
    const bool considered = *number == 0 || wanted.count(*number) > 0 || refused ||
                            (place.seen.has_value() && !place.seen->status.ok());
    next = std::min(next, ActOnPlace(entry, *number, following && considered, now, wall_now));
    if (entry->busy) return TimePoint::max();
  }
  AnswerWaiting(entry.get());

  if (following && !wanted.empty()) {
    const std::set<int64_t> serving = NumberedThatServe(*entry);
    if (std::includes(serving.begin(), serving.end(), wanted.begin(), wanted.end())) {
      entry->established = true;
    }
    if (!VersionsToWithdraw(wanted, serving).empty()) {
      entry->busy = true;
      publishers_.Run([this, entry] { WithdrawUnwanted(entry); });
      return TimePoint::max();
    }
  }
  return next;
}

TimePoint Reloader::ActOnPlace(const EntryPtr& entry, int64_t number, bool following, TimePoint now,
                               WallTime wall_now) {
  for (;;) {
    const ReloadState& place = entry->places.at(number);
    const Decision decision =
        Decide(place, entry->refused, options_.times, following, now, wall_now);
    if (following || place.forced) NoteAttempt(entry.get(), number, decision);
    switch (decision.action) {
      case ReloadAction::kNothing:
        return decision.look_again.value_or(TimePoint::max());
      case ReloadAction::kLoad:
        StartLoad(entry, number);
        return TimePoint::max();
      case ReloadAction::kDropCandidate:
        entry->busy = true;
        publishers_.Run([this, entry] { DropReplacedCandidate(entry); });
        return TimePoint::max();
      case ReloadAction::kRemove:
        ErasePlace(entry.get(), number);
        return TimePoint::max();
      case ReloadAction::kReport:
        Report(entry.get(), number, decision.report);
        break;  // and ask again
    }
  }
}

void Reloader::NoteAttempt(ModelEntry* entry, int64_t number, const Decision& decision) {
  const ReloadState& place = entry->places.at(number);
  if (!place.seen.has_value() || !place.seen->source.weights.has_value()) return;
  const ModelSource& source = place.seen->source;
  const bool again = place.failure.has_value() && place.failure->source == source;
  const bool waits = decision.action == ReloadAction::kNothing && decision.look_again.has_value() &&
                     !again && place.live != source && place.candidate != source &&
                     !entry->refused.Find(source).has_value();
  if (!waits && decision.action != ReloadAction::kLoad) return;
  VersionRecords::Id& attempt = entry->attempts[number];
  const VersionRecord* const record = entry->records.Find(attempt);
  // One that waits to be loaded stands for whatever is there by then.
  const bool waiting = record != nullptr && record->state <= VersionState::kSettling;
  if (waiting || (again && record != nullptr)) {
    if (record->state == VersionState::kSeen) {
      entry->records.Set(attempt, VersionState::kSettling, WallNow());
    }
  } else {
    attempt = entry->records.Add(number == 0 ? entry->last_number + 1 : number, VersionState::kSeen,
                                 source.weights->path, WallNow());
  }
  Refresh(entry);
}

void Reloader::ErasePlace(ModelEntry* entry, int64_t number) {
  const auto attempt = entry->attempts.find(number);
  if (attempt != entry->attempts.end()) {
    const VersionRecord* const record = entry->records.Find(attempt->second);
    if (record != nullptr && record->state <= VersionState::kSettling) {
      entry->records.Erase(attempt->second);
    }
    entry->attempts.erase(attempt);
  }
  entry->places.erase(number);
  Refresh(entry);
}

void Reloader::Report(ModelEntry* entry, int64_t number, const absl::Status& report) {
  ReloadState* const place = &entry->places.at(number);
  const std::string what = number == 0 ? "" : absl::StrCat("version ", number, ": ");
  const std::string serving = LiveText(*entry);
  if (report.ok()) {
    spdlog::info("model '{}': {}its folder holds again what is served; {}", entry->name, what,
                 serving);
  } else if (absl::IsNotFound(report)) {
    spdlog::info("model '{}': {}{}; {}", entry->name, what, Text(report), serving);
  } else {
    spdlog::warn("model '{}': {}{}; {}", entry->name, what, Text(report), serving);
  }
  if (!place->seen->status.ok() && !IsTransient(report)) {
    metrics_->ForModel(entry->name)->CountLoad(LoadOutcome::kRejected);
  }
  RecordReport(place, report);
  if (place->forced) {
    place->forced = false;
    if (entry->calls_result.ok()) entry->calls_result = report;
    AnswerWaiting(entry);
  }
  Refresh(entry);
}

void Reloader::AnswerWaiting(ModelEntry* entry) {
  if (entry->calls.empty() || entry->busy || IsAnyForced(*entry)) return;
  absl::Status result = entry->calls_result;
  entry->calls_result = absl::OkStatus();
  if (result.ok()) {
    // What was to be loaded is gone, or there was nothing.
    const std::string error = ErrorOf(*entry, options_.control);
    result = absl::FailedPreconditionError(
        error.empty() ? "the model's folder holds nothing that is to be loaded" : error);
  }
  Answer(&entry->calls, result);
}

void Reloader::RemoveModel(const EntryPtr& entry) {
  const std::string& name = entry->name;
  {
    MutexLock change(&entry->change_mutex);
    {
      MutexLock lock(&mutex_);
      DropAll(entry.get());
    }
    registry_->Remove(name);
    metrics_->ForModel(name)->SetServingVersion(0, "");
    metrics_->ForModel(name)->SetMemory({});
    metrics_->ForModel(name)->SetDeviations({});
  }
  spdlog::info("model '{}': removed, its folder is gone", name);
  MutexLock lock(&mutex_);
  AnswerAll(entry.get(), NoSuchModel(name));
  entry->records = {};
  Refresh(entry.get());
  entry->model = nullptr;
  entry->missing_since.reset();
  entry->places.clear();
  entry->attempts.clear();
  entry->changing = false;
  entry->busy = false;
  watcher_->LookNow();
}

}  // namespace sconce
