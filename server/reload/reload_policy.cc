#include "server/reload/reload_policy.h"

#include <algorithm>

namespace sconce {
namespace {

Decision Nothing() { return {}; }
Decision WaitUntil(TimePoint time) { return {.look_again = time}; }

bool SameLook(const ModelObservation& a, const ModelObservation& b) {
  return a.status == b.status && a.source == b.source;
}

bool IsDealtWith(const ReloadState& state) {
  if (!state.seen.has_value()) return true;
  if (!state.seen->status.ok()) return state.told == state.seen->status;
  return state.live == state.seen->source ||
         (state.failure.has_value() && state.failure->source == state.seen->source);
}

// When the files of the source will have been left alone for `settle`, by our own looks and by
// their modification times. A modification time in the future says nothing.
TimePoint SettledAt(const ReloadState& state, Duration settle, TimePoint now,
                    std::chrono::system_clock::time_point wall_now) {
  TimePoint settled = state.unchanged_since + settle;
  const std::chrono::nanoseconds wall = wall_now.time_since_epoch();
  const auto wait_for = [&](const SourceFile& file) {
    const std::chrono::nanoseconds age = wall - std::chrono::nanoseconds(file.fingerprint.mtime_ns);
    if (age >= age.zero() && age < settle) settled = std::max(settled, now + (settle - age));
  };
  for (const auto& file : {state.seen->source.config, state.seen->source.weights}) {
    if (file.has_value()) wait_for(*file);
  }
  for (const SourceFile& shard : state.seen->source.shards) wait_for(shard);
  return settled;
}

Duration RetryDelay(const ReloadTimes& times, int attempts) {
  Duration delay = times.first_retry;
  for (int i = 1; i < attempts && delay < times.last_retry; ++i) delay *= 2;
  return std::min(delay, times.last_retry);
}

}  // namespace

void Observe(ReloadState* state, const ModelObservation* observation, TimePoint now) {
  if (observation == nullptr) {
    if (!state->missing_since.has_value()) state->missing_since = now;
    return;
  }
  state->missing_since.reset();
  if (!state->seen.has_value() || !SameLook(*state->seen, *observation)) {
    if (IsDealtWith(*state)) state->changed_since = now;
    state->unchanged_since = now;
  }
  state->seen = *observation;
}

Decision Decide(const ReloadState& state, const ReloadTimes& times, TimePoint now,
                std::chrono::system_clock::time_point wall_now) {
  if (state.missing_since.has_value()) {
    // Whoever swaps a link may make the folder vanish for a moment.
    const TimePoint gone = *state.missing_since + times.settle;
    if (now < gone) return WaitUntil(gone);
    return {.action = ReloadAction::kRemove};
  }
  if (!state.seen.has_value()) return Nothing();
  if (state.unloaded && !state.forced) return Nothing();

  const TimePoint settled = state.forced ? state.unchanged_since + times.forced_settle
                                         : SettledAt(state, times.settle, now, wall_now);
  if (now < settled) return WaitUntil(settled);

  const ModelSource& source = state.seen->source;
  absl::Status verdict = state.seen->status;
  if (verdict.ok()) {
    if (state.forced) return {.action = ReloadAction::kLoad};
    if (state.live != source) {
      if (!state.failure.has_value() || state.failure->source != source) {
        return {.action = ReloadAction::kLoad};
      }
      verdict = state.failure->status;
    }
  }
  if (state.forced || verdict != state.told) {
    return {.action = ReloadAction::kReport, .report = verdict};
  }
  if (state.seen->status.ok() && IsTransient(verdict)) {
    const TimePoint retry = state.failure->at + RetryDelay(times, state.failure->attempts);
    if (now < retry) return WaitUntil(retry);
    return {.action = ReloadAction::kLoad};
  }
  return Nothing();
}

void RecordLoaded(ReloadState* state, const ModelSource& source) {
  state->live = source;
  state->failure.reset();
  state->told = absl::OkStatus();
}

std::optional<TimePoint> RecordFailure(ReloadState* state, const ReloadTimes& times,
                                       const ModelSource& source, const absl::Status& status,
                                       TimePoint now) {
  const bool again = state->failure.has_value() && state->failure->source == source;
  const int attempts = again ? std::min(state->failure->attempts + 1, 1000) : 1;
  state->failure =
      ReloadState::Failure{.source = source, .status = status, .attempts = attempts, .at = now};
  state->told = status;
  if (!IsTransient(status)) return std::nullopt;
  return now + RetryDelay(times, attempts);
}

void RecordReport(ReloadState* state, const absl::Status& report) { state->told = report; }

void RecordRemoved(ReloadState* state) {
  state->seen.reset();
  state->missing_since.reset();
  state->live.reset();
  state->failure.reset();
  state->told = absl::OkStatus();
}

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
