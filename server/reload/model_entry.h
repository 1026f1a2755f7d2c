// What the reloader knows of one model. Plain data; the reloader guards it.

#ifndef SCONCE_SERVER_RELOAD_MODEL_ENTRY_H_
#define SCONCE_SERVER_RELOAD_MODEL_ENTRY_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/registry/canary_policy.h"
#include "server/registry/model.h"
#include "server/registry/repository_control.h"
#include "server/reload/following.h"
#include "server/reload/reload_policy.h"
#include "server/reload/state_file.h"
#include "server/reload/version_records.h"

namespace sconce {

// A version, and what it was made from.
struct KnownVersion {
  std::shared_ptr<const ModelVersion> version;
  ModelSource source;
  std::shared_ptr<const ModelConfig> config;
  // The number of its folder; 0: the model's folder itself, or what came with a load.
  int64_t place = 0;
  // It came with a load that brought its own weights or configuration.
  bool overridden = false;
  VersionRecords::Id record = 0;
  // Orders the versions of all models by when they stopped to answer.
  int64_t retained_as = 0;
};

// A proven version that does not answer everything yet.
struct Candidate {
  KnownVersion known;
  // Null: it is held.
  std::shared_ptr<CanaryTrial> trial;
  TimePoint since{};
  bool judged = false;
};

// An RPC that waits for a load.
struct LoadCall {
  bool done = false;
  absl::Status result;
};
using LoadCalls = std::vector<std::shared_ptr<LoadCall>>;

struct OverrideCall {
  LoadOverrides overrides;
  std::shared_ptr<LoadCall> call;
};

struct ModelEntry {
  explicit ModelEntry(std::string n) : name(std::move(n)) {}

  const std::string name;
  // Null while the repository has no such folder; the entry stays, so that numbers only rise.
  std::shared_ptr<Model> model;

  // The folder's places of weights, by number; 0: the folder itself.
  std::map<int64_t, ReloadState> places;
  Refusals refused;
  // What the attempt at the source that a place holds now is recorded as.
  std::map<int64_t, VersionRecords::Id> attempts;
  std::optional<TimePoint> missing_since;
  // Of the last look that could read it.
  VersionPolicy policy;
  Wishes wishes;
  bool established = false;

  // Versions that answer, by number; the highest is the live one.
  std::map<int64_t, KnownVersion> serving;
  std::optional<Candidate> candidate;
  std::deque<KnownVersion> retained;  // the oldest first
  VersionRecords records;

  // The highest number given so far, be it before a restart.
  int64_t last_number = 0;
  // Of the version that answered last, be it before a restart.
  std::string last_weights_id;
  // No version has been published since a restart: `last_weights_id` under `last_number` may come
  // back as the same version.
  bool restored = false;
  // Why versions were lost since the last one was published.
  std::string lost;

  // Counts what makes a load that is under way useless: the operator wants something else by now.
  int64_t epoch = 0;
  // A task of this model waits or runs.
  bool busy = false;
  // Versions are being exchanged: `serving` and the registry's model differ.
  bool changing = false;
  LoadCalls calls;
  // What came so far of the loads that `calls` wait for.
  absl::Status calls_result;
  std::deque<OverrideCall> overrides;

  // Orders what is done to the registry's model; held without the reloader's mutex or before it.
  Mutex change_mutex;
};

Standing StandingOf(const ModelEntry& entry);

// Null where nothing answers.
const KnownVersion* LiveOf(const ModelEntry& entry);

// The versions that answer and came from numbered folders.
std::set<int64_t> NumberedThatServe(const ModelEntry& entry);

// REQUIRES: there is one. Nothing but that is changed.
KnownVersion TakeCandidate(ModelEntry* entry);

// What the registry is to be told.
Serving ServingOf(const ModelEntry& entry);

// The numbered folders that are to be served now; with kYes also of those that were refused.
enum class RefusedToo { kNo, kYes };
std::set<int64_t> WantedOf(const ModelEntry& entry, RefusedToo refused);

// What is wrong with the model, for the operator; empty where nothing is.
std::string ErrorOf(const ModelEntry& entry, ControlMode mode);

// What clients have while a file is refused: "version 3 keeps serving".
std::string LiveText(const ModelEntry& entry);

SavedModel SavedOf(const ModelEntry& entry);
void Restore(const SavedModel& saved, ModelEntry* entry);

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_MODEL_ENTRY_H_
