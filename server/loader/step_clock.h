// StepClock: tells whoever asked for a load of each step that it took, and how long that was. A
// step that has to be taken again counts for the one that follows. Used by the thread that loads.

#ifndef SCONCE_SERVER_LOADER_STEP_CLOCK_H_
#define SCONCE_SERVER_LOADER_STEP_CLOCK_H_

#include "server/base/clock.h"
#include "server/base/version_state.h"
#include "server/reload/version_loader.h"

namespace sconce {

class StepClock {
 public:
  // `request` outlives it.
  explicit StepClock(const LoadRequest& request)
      : request_(request), since_(Clock::Real()->Now()) {}

  // The step is taken; it began when the one before ended.
  void End(VersionState step) {
    if (step <= last_) return;
    last_ = step;
    const TimePoint now = Clock::Real()->Now();
    if (request_.on_step) request_.on_step(step, now - since_);
    since_ = now;
  }

  // What was waited for counts for no step.
  void Skip() { since_ = Clock::Real()->Now(); }

 private:
  const LoadRequest& request_;
  TimePoint since_;
  VersionState last_ = VersionState::kSeen;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_STEP_CLOCK_H_
