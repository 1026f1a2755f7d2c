#include "server/reload/reload_policy.h"

#include <algorithm>

namespace sconce {
namespace {

Decision Nothing() { return {}; }
Decision WaitUntil(TimePoint time) { return {.look_again = time}; }

bool SameLook(const ModelObservation& a, const ModelObservation& b) {
  return a.status == b.status && a.source == b.source;
}

bool IsDealtWith(const ReloadState& state, const Refusals& refused) {
  if (!state.seen.has_value()) return true;
  if (!state.seen->status.ok()) return state.told == state.seen->status;
  const ModelSource& source = state.seen->source;
  return state.live == source || state.candidate == source ||
         (state.failure.has_value() && state.failure->source == source) ||
         refused.Find(source).has_value();
}

// When the files of the source will have been left alone for `settle`, by our own looks and by
// their modification times. A modification time in the future says nothing; and since the machine's
// clock may stand still or jump, modification times delay nothing for longer than the settle time.
TimePoint SettledAt(const ReloadState& state, Duration settle, TimePoint now,
                    std::chrono::system_clock::time_point wall_now) {
  TimePoint settled = state.unchanged_since + settle;
  const std::chrono::nanoseconds wall = wall_now.time_since_epoch();
  const auto wait_for = [&](const SourceFile& file) {
    const std::chrono::nanoseconds age = wall - std::chrono::nanoseconds(file.fingerprint.mtime_ns);
    if (age >= age.zero() && age < settle) settled = std::max(settled, now + (settle - age));
  };
  ForEachFile(state.seen->source,
              [&wait_for](const char*, const SourceFile& file) { wait_for(file); });
  return std::min(settled, state.unchanged_since + 2 * settle);
}

Duration RetryDelay(const ReloadTimes& times, int attempts) {
  Duration delay = times.first_retry;
  for (int i = 1; i < attempts && delay < times.last_retry; ++i) delay *= 2;
  return std::min(delay, times.last_retry);
}

}  // namespace

bool Observe(ReloadState* state, const Refusals& refused, const ModelObservation* observation,
             TimePoint now) {
  if (observation == nullptr) {
    if (!state->missing_since.has_value()) state->missing_since = now;
    return false;
  }
  state->missing_since.reset();
  const bool changed = !state->seen.has_value() || !SameLook(*state->seen, *observation);
  if (changed) {
    if (IsDealtWith(*state, refused)) state->changed_since = now;
    state->unchanged_since = now;
    state->jitter = Duration::zero();
  }
  state->seen = *observation;
  return changed && !IsDealtWith(*state, refused);
}

TimePoint GoneAt(TimePoint missing_since, const ReloadTimes& times) {
  return missing_since + times.settle;
}

Decision Decide(const ReloadState& state, const Refusals& refused, const ReloadTimes& times,
                bool following, TimePoint now, std::chrono::system_clock::time_point wall_now) {
  if (state.missing_since.has_value()) {
    const TimePoint gone = GoneAt(*state.missing_since, times);
    if (now < gone) return WaitUntil(gone);
    return {.action = ReloadAction::kRemove};
  }
  if (!state.seen.has_value()) return Nothing();
  if (!following && !state.forced) return Nothing();

  const TimePoint settled = state.forced
                                ? state.unchanged_since + times.forced_settle
                                : SettledAt(state, times.settle, now, wall_now) + state.jitter;
  if (now < settled) return WaitUntil(settled);

  const ModelSource& source = state.seen->source;
  absl::Status verdict = state.seen->status;
  bool retried = false;
  if (verdict.ok()) {
    if (state.forced) return {.action = ReloadAction::kLoad};
    if (state.candidate.has_value() && state.candidate != source) {
      return {.action = ReloadAction::kDropCandidate};
    }
    if (state.live != source && state.candidate != source) {
      const std::optional<absl::Status> refusal = refused.Find(source);
      retried = !refusal.has_value();
      if (retried && (!state.failure.has_value() || state.failure->source != source)) {
        return {.action = ReloadAction::kLoad};
      }
      verdict = retried ? state.failure->status : *refusal;
    }
  }
  if (state.forced || verdict != state.told) {
    return {.action = ReloadAction::kReport, .report = verdict};
  }
  if (!retried || !IsTransient(verdict)) return Nothing();
  const TimePoint retry = state.failure->at + RetryDelay(times, state.failure->attempts);
  if (now < retry) return WaitUntil(retry);
  return {.action = ReloadAction::kLoad};
}

void RecordLoaded(ReloadState* state, Refusals* refused, const ModelSource& source) {
  state->live = source;
  state->candidate.reset();
  state->failure.reset();
  refused->Forget(source);
  state->told = absl::OkStatus();
}

void RecordCandidate(ReloadState* state, Refusals* refused, const ModelSource& source) {
  state->candidate = source;
  state->failure.reset();
  refused->Forget(source);
  state->told = absl::OkStatus();
}

std::optional<TimePoint> RecordFailure(ReloadState* state, Refusals* refused,
                                       const ReloadTimes& times, const ModelSource& source,
                                       const absl::Status& status, TimePoint now) {
  if (!IsTransient(status)) {
    RecordRefused(state, refused, source, status);
    return std::nullopt;
  }
  const bool again = state->failure.has_value() && state->failure->source == source;
  const int attempts = again ? std::min(state->failure->attempts + 1, 1000) : 1;
  state->failure =
      ReloadState::Failure{.source = source, .status = status, .attempts = attempts, .at = now};
  state->told = status;
  return now + RetryDelay(times, attempts);
}

void RecordRefused(ReloadState* state, Refusals* refused, const ModelSource& source,
                   const absl::Status& reason) {
  refused->Add(source, reason);
  state->failure.reset();
  if (state->candidate == source) state->candidate.reset();
  state->told = reason;
}

void RecordOtherThanPinned(ReloadState* state, const ModelSource& source,
                           const absl::Status& reason, TimePoint now) {
  state->failure = ReloadState::Failure{.source = source, .status = reason, .at = now};
  state->told = reason;
}

void RecordUnpinned(ReloadState* state) {
  if (!state->failure.has_value() || IsTransient(state->failure->status)) return;
  state->failure.reset();
  state->told = absl::OkStatus();
}

void RecordReport(ReloadState* state, const absl::Status& report) { state->told = report; }

bool IsTransient(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
      return false;
    default:
      // Rather an attempt too many, once a minute, than a model that is given up for good.
      return true;
  }
}

}  // namespace sconce
