// FakeClock: a clock that stands still until a test moves it. Thread-safe; outlives what uses it.

#ifndef SCONCE_TESTS_SUPPORT_FAKE_CLOCK_H_
#define SCONCE_TESTS_SUPPORT_FAKE_CLOCK_H_

#include <atomic>

#include "server/base/clock.h"

namespace sconce {

class FakeClock : public Clock {
 public:
  // Not at the epoch, so that "an hour ago" can be said.
  explicit FakeClock(Duration start = std::chrono::hours(1000)) : ticks_(start.count()) {}

  TimePoint Now() const override { return TimePoint(Duration(ticks_.load())); }
  void Advance(Duration d) { ticks_ += d.count(); }

 private:
  std::atomic<Duration::rep> ticks_;
};

}  // namespace sconce

#endif  // SCONCE_TESTS_SUPPORT_FAKE_CLOCK_H_
