// BareLoop: a network, LibTorch and nothing around them: what serving is compared with. It does the
// work of a batch as the server must: copies the rows from page-locked memory to the device, runs
// the network, and copies its output to page-locked memory.
//
// Used by one thread.

#ifndef SCONCE_BENCH_GPU_BARE_H_
#define SCONCE_BENCH_GPU_BARE_H_

#include <c10/core/Stream.h>

#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "bench/gpu/measuring.h"
#include "bench/gpu/workload.h"

namespace sconce::bench {

class BareLoop {
 public:
  // Warmed up for batches of 1, 2, 4, ... rows and the largest.
  static absl::StatusOr<std::unique_ptr<BareLoop>> Make(const Versions& versions,
                                                        const ExecutionOptions& execution);

  // Batches of `rows` for that long. `in_flight` of them are queued at a time, so that the device
  // need not wait for the host; latencies are those of batches. Throws what LibTorch throws.
  Window Measure(int64_t rows, double seconds, int in_flight);

  // The batch size with the most rows per second at which a request that waits for one batch and
  // is in the next stays below the bound.
  int64_t BestRowsUnder(double bound_ms, double seconds);

 private:
  struct Slot;

  BareLoop(const Versions& versions, const ExecutionOptions& execution);
  void Queue(int64_t rows, Slot* slot);

  const Workload workload_;
  const c10::Device device_;
  const ExecutionOptions execution_;
  std::unique_ptr<models::Net> net_;
  std::optional<c10::Stream> stream_;  // none on the CPU
};

}  // namespace sconce::bench

#endif  // SCONCE_BENCH_GPU_BARE_H_
