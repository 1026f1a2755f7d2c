// What is measured: batches offline, requests under a latency bound, loads, and swaps under load.
// Each on one device, with what it is compared with in turn.
//
// Called by one thread; progress goes to standard error.

#ifndef SCONCE_BENCH_GPU_SCENARIOS_H_
#define SCONCE_BENCH_GPU_SCENARIOS_H_

#include <c10/core/Device.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/gpu/measuring.h"
#include "bench/gpu/workload.h"

namespace sconce::bench {

struct Settings {
  c10::Device device = c10::kCPU;
  bool quick = false;
  int pairs = 10;
  double seconds = 1;  // of a window
  std::vector<Precision> precisions;
  std::string folder;  // for weights files
};

// Requests of one kind, beside or apart from swaps.
struct Latencies {
  int64_t requests = 0;
  double p50_ms = 0;
  double p99_ms = 0;
  double p999_ms = 0;
  double max_ms = 0;
};

struct SwapFindings {
  std::string name;
  int swaps = 0;
  double rate = 0;  // requests/s
  Spread load_seconds;
  // A swap's window: from the file's change, here the begin of the load, until 250 ms after the
  // new version answers.
  Latencies within;
  Latencies outside;
  int64_t failed = 0;
};

struct Findings {
  std::vector<Comparison> comparisons;
  std::vector<SwapFindings> swaps;
};

// Closed loop against bare LibTorch, for each precision, with graphs and without. Aim: 0.97.
absl::Status MeasureOffline(const Settings& settings, const Workload& workload, Findings* findings);

// Open loop at the highest share of bare LibTorch's rate at which the 99th percentile stays below
// the workload's bound, in the last of the precisions. Aim: 0.9.
absl::Status MeasureUnderBound(const Settings& settings, const Workload& workload,
                               Findings* findings);

// From a weights file in the page cache to tensors on the device, against copying as many bytes
// from page-locked memory. Aim: 0.9.
absl::Status MeasureLoad(const Settings& settings, Findings* findings);

// Open loop at half of what the model can do, while versions are swapped.
absl::Status MeasureSwaps(const Settings& settings, const Workload& workload, Findings* findings);

}  // namespace sconce::bench

#endif  // SCONCE_BENCH_GPU_SCENARIOS_H_
