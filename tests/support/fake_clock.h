// FakeClock: a clock that stands still until a test moves it. Thread-safe; outlives what uses it.

#ifndef SCONCE_TESTS_SUPPORT_FAKE_CLOCK_H_
#define SCONCE_TESTS_SUPPORT_FAKE_CLOCK_H_

#include <atomic>

#include "server/base/clock.h"

namespace sconce {

class FakeClock : public Clock {
 public:
  TimePoint Now() const override { return TimePoint(Duration(ticks_.load())); }
  void Advance(Duration d) { ticks_ += d.count(); }

 private:
  // Not at the epoch, so that "an hour ago" can be said.
  std::atomic<Duration::rep> ticks_{Duration(std::chrono::hours(1000)).count()};
};

}  // namespace sconce

#endif  // SCONCE_TESTS_SUPPORT_FAKE_CLOCK_H_
