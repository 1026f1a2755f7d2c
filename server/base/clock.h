// Time as the server sees it. Decisions take a TimePoint; threads take a Clock, so that tests move
// time by hand (tests/support/fake_clock.h). Thread-safe.

#ifndef SCONCE_SERVER_BASE_CLOCK_H_
#define SCONCE_SERVER_BASE_CLOCK_H_

#include <chrono>

namespace sconce {

using Duration = std::chrono::steady_clock::duration;
using TimePoint = std::chrono::steady_clock::time_point;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint Now() const = 0;

  // The machine's monotonic clock; lives for ever.
  static const Clock* Real();
};

inline double ToSeconds(Duration d) { return std::chrono::duration<double>(d).count(); }
inline std::chrono::nanoseconds ToNanos(Duration d) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(d);
}

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_CLOCK_H_
