// The reload policy: what is to be done about one place of weights (a model's folder, or one of its
// numbered folders), given what it holds, what was done before and the time. Pure functions of
// value types; the reloader carries the decisions out.
//
// Desired state, not commands: the policy is asked after every look at the repository and answers
// the same until something changed, so that a lost notification never loses an update.

#ifndef SCONCE_SERVER_RELOAD_RELOAD_POLICY_H_
#define SCONCE_SERVER_RELOAD_RELOAD_POLICY_H_

#include <chrono>
#include <optional>

#include "absl/status/status.h"
#include "server/base/clock.h"
#include "server/reload/refusals.h"
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
  // At most that much is added to the settle time of each new source, so that a fleet does not
  // reload in one instant; not where an operator asks, nor for what is found at the start.
  Duration jitter = Duration::zero();
};

// What is known of one place. Changed by Observe and the Record functions only.
struct ReloadState {
  // What was seen last, and since when it has looked like that.
  std::optional<ModelObservation> seen;
  TimePoint unchanged_since{};
  // When it first differed from what had been dealt with.
  TimePoint changed_since{};
  // What is waited beyond the settle time; drawn for each new source.
  Duration jitter{};
  // Set while it is not there.
  std::optional<TimePoint> missing_since;

  // What the version that answers was made from.
  std::optional<ModelSource> live;
  // What the version that is held, or answers a share of the batches, was made from.
  std::optional<ModelSource> candidate;
  // The last attempt, where it failed for a reason that may pass, or that holds for now.
  struct Failure {
    ModelSource source;
    absl::Status status;
    int attempts = 1;
    TimePoint at{};
  };
  std::optional<Failure> failure;
  // What the operator was told last.
  absl::Status told;
  // The operator asks for a load.
  bool forced = false;
};

enum class ReloadAction {
  kNothing,
  kLoad,           // bring seen->source into service
  kDropCandidate,  // what is held, or a canary, is not what is wanted any more
  kReport,         // tell the operator Decision::report; OK takes an earlier complaint back
  kRemove,         // it is gone
};

struct Decision {
  ReloadAction action = ReloadAction::kNothing;
  absl::Status report = absl::OkStatus();
  // With kNothing: when time alone may change the decision.
  std::optional<TimePoint> look_again = std::nullopt;
};

// Takes in one look; null where there is no such folder. True where it shows a source that has to
// be dealt with and was not seen before.
bool Observe(ReloadState* state, const Refusals& refused, const ModelObservation* observation,
             TimePoint now);

// When a folder that is missing since then is gone: whoever swaps a link may make it vanish for a
// moment.
TimePoint GoneAt(TimePoint missing_since, const ReloadTimes& times);

// `refused`: the model's, of all its places. `following`: whether what is there is to be loaded
// without anybody asking for it. `wall_now` is compared with the files' modification times.
Decision Decide(const ReloadState& state, const Refusals& refused, const ReloadTimes& times,
                bool following, TimePoint now, std::chrono::system_clock::time_point wall_now);

// What came of a decision. RecordFailure returns when the same source is to be tried again; nothing
// where only a change of the files helps.
void RecordLoaded(ReloadState* state, Refusals* refused, const ModelSource& source);
void RecordCandidate(ReloadState* state, Refusals* refused, const ModelSource& source);
std::optional<TimePoint> RecordFailure(ReloadState* state, Refusals* refused,
                                       const ReloadTimes& times, const ModelSource& source,
                                       const absl::Status& status, TimePoint now);
// `source` is not to be loaded until somebody asks for it.
void RecordRefused(ReloadState* state, Refusals* refused, const ModelSource& source,
                   const absl::Status& reason);
// `source` is not to be loaded as long as RecordUnpinned is not called.
void RecordOtherThanPinned(ReloadState* state, const ModelSource& source,
                           const absl::Status& reason, TimePoint now);
void RecordUnpinned(ReloadState* state);
void RecordReport(ReloadState* state, const absl::Status& report);

// Whether the same files may be loaded later although they failed with `status` now.
bool IsTransient(const absl::Status& status);

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_RELOAD_POLICY_H_
