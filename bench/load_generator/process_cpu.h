// The processor time another process has taken. Callable from any thread.

#ifndef SCONCE_BENCH_LOAD_GENERATOR_PROCESS_CPU_H_
#define SCONCE_BENCH_LOAD_GENERATOR_PROCESS_CPU_H_

#include <sys/types.h>

#include <chrono>

#include "absl/status/statusor.h"

namespace sconce::bench {

// User and system time of all threads of process `pid`, ended ones included. The same sum as in
// /proc/PID/stat, but to the nanosecond instead of to the hundredth of a second.
absl::StatusOr<std::chrono::nanoseconds> ProcessCpuTime(pid_t pid);

}  // namespace sconce::bench

#endif  // SCONCE_BENCH_LOAD_GENERATOR_PROCESS_CPU_H_
