#include "server/reload/model_entry.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/reload/version_policy.h"

namespace sconce {

Standing StandingOf(const ModelEntry& entry) {
  return {.established = entry.established,
          .serves = !entry.serving.empty(),
          .served_before = !entry.last_weights_id.empty()};
}

const KnownVersion* LiveOf(const ModelEntry& entry) {
  return entry.serving.empty() ? nullptr : &entry.serving.rbegin()->second;
}

std::set<int64_t> NumberedThatServe(const ModelEntry& entry) {
  std::set<int64_t> numbers;
  for (const auto& [number, known] : entry.serving) {
    if (known.place != 0) numbers.insert(number);
  }
  return numbers;
}

KnownVersion TakeCandidate(ModelEntry* entry) {
  KnownVersion known = std::move(entry->candidate->known);
  entry->candidate.reset();
  return known;
}

Serving ServingOf(const ModelEntry& entry) {
  Serving serving;
  for (const auto& [number, known] : entry.serving) serving.others[number] = known.version;
  if (const KnownVersion* const live = LiveOf(entry)) {
    serving.live = live->version;
    serving.others.erase(live->version->number);
  }
  if (entry.candidate.has_value() && entry.candidate->trial != nullptr) {
    serving.canary = entry.candidate->known.version;
    serving.canary_share = entry.candidate->known.version->config.canary.share;
    serving.trial = entry.candidate->trial;
  }
  return serving;
}

std::set<int64_t> WantedOf(const ModelEntry& entry, RefusedToo refused) {
  std::set<int64_t> usable;
  for (const auto& [number, place] : entry.places) {
    if (number == 0 || !place.seen.has_value()) continue;
    const bool loadable =
        place.seen->status.ok() &&
        (refused == RefusedToo::kYes || !entry.refused.Find(place.seen->source).has_value());
    if (place.live.has_value() || loadable) usable.insert(number);
  }
  return WantedVersions(entry.policy, usable);
}

std::string ErrorOf(const ModelEntry& entry, ControlMode mode) {
  if (entry.wishes.unloaded) return "unloaded on request; RepositoryModelLoad brings it back";
  if (!entry.lost.empty()) return entry.lost;
  for (auto place = entry.places.rbegin(); place != entry.places.rend(); ++place) {
    if (place->second.told.ok()) continue;
    const std::string text(place->second.told.message());
    return place->first == 0 ? text : absl::StrCat("version ", place->first, ": ", text);
  }
  if (mode == ControlMode::kCommand && entry.serving.empty() && !entry.busy &&
      !entry.candidate.has_value()) {
    return "not loaded; RepositoryModelLoad loads it";
  }
  return "";
}

std::string LiveText(const ModelEntry& entry) {
  const KnownVersion* const live = LiveOf(entry);
  if (live == nullptr) return "nothing serves yet";
  return absl::StrCat("version ", live->version->number, " keeps serving");
}

SavedModel SavedOf(const ModelEntry& entry) {
  SavedModel saved;
  saved.last_number = entry.last_number;
  saved.last_weights_id = entry.last_weights_id;
  // After a rollback the number belongs to other weights: those that answer now get a new one when
  // they come back after a restart.
  const KnownVersion* const live = LiveOf(entry);
  if (live != nullptr && live->version->number < entry.last_number) ++saved.last_number;
  saved.pinned = entry.wishes.pinned;
  saved.unloaded = entry.wishes.unloaded;
  saved.loaded_on_command = entry.wishes.loaded_on_command;
  saved.refused = entry.refused.saved();
  return saved;
}

void Restore(const SavedModel& saved, ModelEntry* entry) {
  entry->last_number = saved.last_number;
  entry->last_weights_id = saved.last_weights_id;
  entry->restored = !saved.last_weights_id.empty();
  entry->wishes.pinned = saved.pinned;
  entry->wishes.unloaded = saved.unloaded;
  entry->wishes.loaded_on_command = saved.loaded_on_command;
  entry->refused = Refusals(saved.refused);
}

}  // namespace sconce
