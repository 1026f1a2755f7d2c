// Which executor takes the next batch, where a model has several, on one device or more: a pure
// function of what each has under way.

#ifndef SCONCE_SERVER_BATCHING_DISPATCH_POLICY_H_
#define SCONCE_SERVER_BATCHING_DISPATCH_POLICY_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "server/base/clock.h"

namespace sconce {

// Where an executor's replica of a version is.
struct ReplicaPlace {
  bool usable = false;  // it works
  // Equal for replicas on one device.
  int device = 0;
  // Rows of the largest batch that fits into the device's memory.
  int64_t max_rows = 0;
};

// What the policy sees of an executor.
struct ExecutorLoad {
  // Where its batches under way are.
  int device = 0;
  // Batches under way, their rows, and when the last of them is expected to end.
  int under_way = 0;
  int64_t rows = 0;
  TimePoint expected_end{};
  // Whether it could take a batch: a replica of its works, and its thread waits for one, or will
  // look for one as soon as it has sent answers or begun to run.
  bool available = false;
  // The latter, of one that is available.
  bool looks_soon = false;
};

// The available executor whose replica, of those at `places`, takes a request of `rows` rows and
// can begin with it soonest: one with nothing under way before one that has, one that waits before
// one that looks soon, and of those the one whose device has least under way: by the time until
// that is expected to end, then by rows. None where no available one fits.
std::optional<size_t> NextExecutor(absl::Span<const ExecutorLoad> executors,
                                   absl::Span<const ReplicaPlace> places, int64_t rows,
                                   TimePoint now);

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_DISPATCH_POLICY_H_
