// RunInParallel: independent pieces of work, on the calling thread and a few helpers.
#ifndef SCONCE_SERVER_BASE_PARALLEL_H_
#define SCONCE_SERVER_BASE_PARALLEL_H_

#include <cstddef>
#include <functional>

#include "absl/status/status.h"

namespace sconce {

// Processors that this thread may run on, 1 at least.
int AvailableProcessors();

// Calls job(0) ... job(count - 1), each once, begun in that order, on at most `threads` threads of
// which this is one; the others run at this thread's priority and have ended on return. After an
// error no further job is begun; the error of the lowest job is returned.
absl::Status RunInParallel(size_t count, int threads,
                           const std::function<absl::Status(size_t)>& job);

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_PARALLEL_H_
