// The reload policy: what is to be done about one model, given what its folder holds, what was done
// before and the time. Pure functions of value types; the reloader carries the decisions out.
//
// Desired state, not commands: the policy is asked after every look at the repository and answers
// the same until something changed, so that a lost notification never loses an update.

#ifndef SCONCE_SERVER_RELOAD_RELOAD_POLICY_H_
#define SCONCE_SERVER_RELOAD_RELOAD_POLICY_H_

#include <chrono>
#include <optional>

#include "absl/status/status.h"
#include "server/base/clock.h"
#include "server/reload/repository_scan.h"

namespace sconce {

struct ReloadTimes {
  // How long files must have been left alone before they are read. It spares attempts at files that
  // are being written; what keeps a partial file from being served is the loader's checks.
  Duration settle = std::chrono::milliseconds(300);
  // The same where an operator asks for a load: one more look.
  Duration forced_settle = std::chrono::milliseconds(20);
  // Between attempts that failed for a reason that may pass; doubled after each.
  Duration first_retry = std::chrono::milliseconds(500);
  Duration last_retry = std::chrono::seconds(60);
};

// What is known of one model. Changed by Observe and the Record functions only.
struct ReloadState {
  // The folder as seen last, and since when it has looked like that.
  std::optional<ModelObservation> seen;
  TimePoint unchanged_since{};
  // When the folder first differed from what had been dealt with.
  TimePoint changed_since{};
  // Set while the folder is not in the repository.
  std::optional<TimePoint> missing_since;

  // What the version that answers was made from.
  std::optional<ModelSource> live;
  // The last attempt, if it failed.
  struct Failure {
    ModelSource source;
    absl::Status status;
    int attempts = 1;
    TimePoint at{};
  };
  std::optional<Failure> failure;
  // What the operator was told last.
  absl::Status told;

  // The operator's wishes.
  bool unloaded = false;
  bool forced = false;
};

enum class ReloadAction {
  kNothing,
  kLoad,    // bring seen->source into service
  kReport,  // tell the operator Decision::report; OK takes an earlier complaint back
  kRemove,  // the model is gone
};

struct Decision {
  ReloadAction action = ReloadAction::kNothing;
  absl::Status report = absl::OkStatus();
  // With kNothing: when time alone may change the decision.
  std::optional<TimePoint> look_again = std::nullopt;
};

// Takes in one look at the model's folder; null where the repository has no such folder.
void Observe(ReloadState* state, const ModelObservation* observation, TimePoint now);

// `wall_now` is compared with the files' modification times.
Decision Decide(const ReloadState& state, const ReloadTimes& times, TimePoint now,
                std::chrono::system_clock::time_point wall_now);

// What came of a decision. RecordFailure returns when the same source is to be tried again; nothing
// where only a change of the files helps.
void RecordLoaded(ReloadState* state, const ModelSource& source);
std::optional<TimePoint> RecordFailure(ReloadState* state, const ReloadTimes& times,
                                       const ModelSource& source, const absl::Status& status,
                                       TimePoint now);
void RecordReport(ReloadState* state, const absl::Status& report);
// Forgets all but the operator's wishes: they hold for the folder that may come back.
void RecordRemoved(ReloadState* state);

// Whether the same files may be loaded later although they failed with `status` now.
bool IsTransient(const absl::Status& status);

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_RELOAD_POLICY_H_
