#include "bench/gpu/bare.h"

#include <ATen/ops/empty.h>
#include <c10/core/Event.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <chrono>
#include <deque>
#include <exception>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/load_generator/latency_histogram.h"
#include "server/base/clock.h"
#include "server/device/execution/math_mode.h"

namespace sconce::bench {

struct BareLoop::Slot {
  at::Tensor rows;    // on the host
  at::Tensor output;  // on the host
  std::optional<c10::Event> done;
  TimePoint began;
};

BareLoop::BareLoop(const Versions& versions, const ExecutionOptions& execution)
    : workload_(versions.workload()), device_(versions.device()), execution_(execution) {
  if (!device_.is_cpu()) {
    stream_ = c10::impl::VirtualGuardImpl(device_.type()).getStreamFromGlobalPool(device_);
  }
}

absl::StatusOr<std::unique_ptr<BareLoop>> BareLoop::Make(const Versions& versions,
                                                         const ExecutionOptions& execution) {
  std::unique_ptr<BareLoop> loop(new BareLoop(versions, execution));
  auto net = versions.BareNet(execution);
  if (!net.ok()) return net.status();
  loop->net_ = *std::move(net);
  try {
    const CudnnBenchmark benchmark;  // as the server's warm-up
    for (int64_t rows = 1; rows < loop->workload_.batch; rows *= 2) loop->Measure(rows, 0, 1);
    loop->Measure(loop->workload_.batch, 0, 1);
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat("bare LibTorch: ", e.what()));
  }
  return loop;
}

void BareLoop::Queue(int64_t rows, Slot* slot) {
  const bool pinned = stream_.has_value();
  if (!slot->rows.defined()) {
    slot->rows = RandomRows(workload_, rows);
    if (pinned) slot->rows = slot->rows.pin_memory();
  }
  slot->began = Clock::Real()->Now();
  at::Tensor input = slot->rows.to(device_, /*non_blocking=*/true);
  if (input.is_floating_point()) input = input.to(TypeOf(execution_.precision));
  if (execution_.channels_last && input.dim() == 4) {
    input = input.contiguous(at::MemoryFormat::ChannelsLast);
  }
  const at::Tensor output = net_->Forward({input}).front().to(at::kFloat);
  if (!slot->output.defined()) {
    slot->output =
        at::empty(output.sizes(), output.options().device(c10::kCPU).pinned_memory(pinned));
  }
  slot->output.copy_(output, /*non_blocking=*/true);
  if (stream_.has_value()) {
    slot->done.emplace(device_.type());
    slot->done->record(*stream_);
  }
}

Window BareLoop::Measure(int64_t rows, double seconds, int in_flight) {
  const c10::InferenceMode inference_mode;
  const c10::OptionalStreamGuard on(stream_);
  const MathModeLease math(execution_.precision);
  std::vector<Slot> slots(static_cast<size_t>(in_flight));
  std::deque<Slot*> queued;
  LatencyHistogram latencies;
  int64_t finished = 0;
  const auto finish_one = [&] {
    Slot* const slot = queued.front();
    queued.pop_front();
    if (slot->done.has_value()) slot->done->synchronize();
    latencies.Record(Clock::Real()->Now() - slot->began);
    finished += rows;
  };
  const TimePoint begin = Clock::Real()->Now();
  size_t next = 0;
  double took = 0;
  do {
    if (queued.size() == slots.size()) finish_one();
    Slot* const slot = &slots[next++ % slots.size()];
    Queue(rows, slot);
    queued.push_back(slot);
    took = ToSeconds(Clock::Real()->Now() - begin);
  } while (took < seconds);
  while (!queued.empty()) finish_one();
  took = ToSeconds(Clock::Real()->Now() - begin);

  Window window;
  window.per_second = static_cast<double>(finished) / took;
  window.p50_ms = 1e3 * ToSeconds(latencies.Quantile(0.5));
  window.p99_ms = 1e3 * ToSeconds(latencies.Quantile(0.99));
  return window;
}

int64_t BareLoop::BestRowsUnder(double bound_ms, double seconds) {
  int64_t best = 1;
  double most = 0;
  for (int64_t rows = 1; rows <= workload_.batch; rows *= 2) {
    const Window window = Measure(rows, seconds, 1);
    if (rows > 1 && 2 * window.p99_ms > bound_ms) break;
    if (window.per_second > most) {
      most = window.per_second;
      best = rows;
    }
  }
  return best;
}

}  // namespace sconce::bench
