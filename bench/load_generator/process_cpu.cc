#include "bench/load_generator/process_cpu.h"

#include <time.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace sconce::bench {

absl::StatusOr<std::chrono::nanoseconds> ProcessCpuTime(pid_t pid) {
  clockid_t clock;
  timespec time;
  int error = clock_getcpuclockid(pid, &clock);
  if (error == 0 && clock_gettime(clock, &time) != 0) error = errno;
  if (error != 0) {
    return absl::NotFoundError(
        absl::StrCat("cannot read the processor time of process ", pid, ": ", strerror(error)));
  }
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

}  // namespace sconce::bench
