#include "server/device/execution/math_mode.h"

#include <ATen/Context.h>

#include <cstdint>
#include <optional>

#include "server/base/mutex.h"

namespace sconce {
namespace {

// The one state that goes with LibTorch's one state.
struct Switches {
  Mutex mutex;
  CondVar changed;
  std::optional<bool> tf32 ABSL_GUARDED_BY(mutex);  // none: LibTorch's own defaults
  int64_t holders ABSL_GUARDED_BY(mutex) = 0;
  // Leases are given in the order of their tickets.
  uint64_t next_ticket ABSL_GUARDED_BY(mutex) = 0;
  uint64_t now_served ABSL_GUARDED_BY(mutex) = 0;
  int64_t benchmarks ABSL_GUARDED_BY(mutex) = 0;
};
Switches& switches = *new Switches;

// By LibTorch's older names: its newer ones make the older getters, which its own code still asks,
// throw. Neither touches what the CPU does.
void AllowTf32(bool allowed) {
  at::globalContext().setAllowTF32CuBLAS(allowed);
  at::globalContext().setAllowTF32CuDNN(allowed);
}

}  // namespace

MathModeLease::MathModeLease(Precision precision) {
  const bool tf32 = precision == Precision::kTf32;
  MutexLock lock(&switches.mutex);
  const uint64_t ticket = switches.next_ticket++;
  while (ticket != switches.now_served || (switches.holders > 0 && switches.tf32 != tf32)) {
    switches.changed.Wait(&switches.mutex);
  }
  if (switches.tf32 != tf32) AllowTf32(tf32);
  switches.tf32 = tf32;
  ++switches.holders;
  ++switches.now_served;
  switches.changed.NotifyAll();
}

MathModeLease::~MathModeLease() {
  MutexLock lock(&switches.mutex);
  if (--switches.holders == 0) switches.changed.NotifyAll();
}

CudnnBenchmark::CudnnBenchmark() {
  MutexLock lock(&switches.mutex);
  if (switches.benchmarks++ == 0) at::globalContext().setBenchmarkCuDNN(true);
}

CudnnBenchmark::~CudnnBenchmark() {
  MutexLock lock(&switches.mutex);
  if (--switches.benchmarks == 0) at::globalContext().setBenchmarkCuDNN(false);
}

}  // namespace sconce
