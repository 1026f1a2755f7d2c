#include "bench/gpu/scenarios.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bench/gpu/bare.h"
#include "bench/gpu/served.h"
#include "bench/load_generator/latency_histogram.h"

namespace sconce::bench {
namespace {

constexpr double kOfflineAim = 0.97;
constexpr double kBoundedAim = 0.9;

// Enough that a full batch waits whenever one ends, however many are under way.
int InFlight(const Workload& workload) { return static_cast<int>(4 * workload.batch); }

ExecutionOptions Execution(const Workload& workload, Precision precision, bool graphs) {
  ExecutionOptions execution;
  execution.precision = precision;
  // Which is how tensor cores want images.
  execution.channels_last = workload.input.dims.size() == 3;
  execution.graphs = graphs;
  return execution;
}

void Say(const Comparison& comparison) {
  const Spread ratio = comparison.Ratio(), same = comparison.SameAgainstItself();
  std::fprintf(stderr, "%s: %.3f (%.3f-%.3f), itself %.3f-%.3f\n", comparison.name.c_str(),
               ratio.median, ratio.low, ratio.high, same.low, same.high);
}

Latencies Summary(const LatencyHistogram& histogram) {
  const auto ms = [](Duration duration) { return 1e3 * ToSeconds(duration); };
  return {histogram.count(), ms(histogram.Quantile(0.5)), ms(histogram.Quantile(0.99)),
          ms(histogram.Quantile(0.999)), ms(histogram.max())};
}

}  // namespace

absl::Status MeasureOffline(const Settings& settings, const Workload& workload,
                            Findings* findings) {
  auto versions = Versions::Make(workload, settings.folder, settings.device);
  if (!versions.ok()) return versions.status();
  for (const Precision precision : settings.precisions) {
    for (const bool graphs : {true, false}) {
      const ExecutionOptions execution = Execution(workload, precision, graphs);
      auto bare = BareLoop::Make(**versions, execution);
      if (!bare.ok()) return bare.status();
      auto version = (*versions)->Load(execution, 1);
      if (!version.ok()) return version.status();
      Served served(workload, *std::move(version));
      Comparison comparison;
      comparison.name = absl::StrCat("offline ", workload.name, " ", NameOf(precision),
                                     graphs ? ", graphs" : ", no graphs");
      comparison.unit = absl::StrCat(workload.unit, "/s");
      comparison.a_name = "bare LibTorch";
      comparison.b_name = "served";
      comparison.aim = kOfflineAim;
      InTurn([&] { return (*bare)->Measure(workload.batch, settings.seconds, 2); },
             [&] { return served.Closed(InFlight(workload), settings.seconds); }, settings.pairs,
             &comparison);
      Say(comparison);
      findings->comparisons.push_back(std::move(comparison));
    }
  }
  return absl::OkStatus();
}

absl::Status MeasureUnderBound(const Settings& settings, const Workload& workload,
                               Findings* findings) {
  auto versions = Versions::Make(workload, settings.folder, settings.device);
  if (!versions.ok()) return versions.status();
  const ExecutionOptions execution = Execution(workload, settings.precisions.back(), true);
  auto bare = BareLoop::Make(**versions, execution);
  if (!bare.ok()) return bare.status();
  const int64_t rows = (*bare)->BestRowsUnder(workload.bound_ms, settings.seconds / 2);
  auto version = (*versions)->Load(execution, 1);
  if (!version.ok()) return version.status();
  Served served(workload, *std::move(version));

  // A queue that grows by a few hundredths must have the time to pass the bound.
  const double seconds =
      settings.quick ? settings.seconds : std::max(settings.seconds, 30 * workload.bound_ms / 1e3);
  const auto measure_bare = [&] { return (*bare)->Measure(rows, settings.seconds, 1); };
  const double bare_rate = measure_bare().per_second;
  Comparison comparison;
  for (const double share : {1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.3, 0.1}) {
    comparison = Comparison{};
    comparison.name = absl::StrCat("p99 below ", workload.bound_ms, " ms, ", workload.name, " ",
                                   NameOf(execution.precision));
    comparison.unit = absl::StrCat(workload.unit, "/s");
    comparison.a_name = absl::StrCat("bare LibTorch, batches of ", rows);
    comparison.b_name = absl::StrCat("served, offered ", share, " of that");
    comparison.aim = kBoundedAim;
    comparison.bound_ms = workload.bound_ms;
    InTurn(
        measure_bare,
        [&] { return Served::WindowOf(served.Open(share * bare_rate, seconds), seconds); },
        settings.pairs, &comparison);
    if (comparison.StaysBelowBound() && comparison.Failed() == 0) break;
  }
  Say(comparison);
  findings->comparisons.push_back(std::move(comparison));
  return absl::OkStatus();
}

absl::Status MeasureSwaps(const Settings& settings, const Workload& workload, Findings* findings) {
  constexpr auto kAfterFlip = std::chrono::milliseconds(250);
  auto versions = Versions::Make(workload, settings.folder, settings.device);
  if (!versions.ok()) return versions.status();
  const ExecutionOptions execution = Execution(workload, settings.precisions.back(), true);
  auto version = (*versions)->Load(execution, 1);
  if (!version.ok()) return version.status();
  Served served(workload, *std::move(version));
  SwapFindings swaps;
  swaps.name = absl::StrCat("swaps ", workload.name, " ", NameOf(execution.precision));
  swaps.swaps = settings.quick ? 2 : 30;
  swaps.rate = 0.5 * served.Closed(InFlight(workload), settings.seconds).per_second;

  struct Window {
    TimePoint begin, end;
  };
  std::vector<Window> windows;
  std::vector<double> load_seconds;
  absl::Status failed;
  std::atomic<bool> over = false;
  std::thread swapper([&] {
    for (int i = 0; i < swaps.swaps && failed.ok(); ++i) {
      // As long without a swap as the window after one.
      std::this_thread::sleep_for(2 * kAfterFlip);
      const TimePoint begin = Clock::Real()->Now();
      auto next = (*versions)->Load(execution, i + 2, /*second=*/i % 2 == 0);
      if (!next.ok()) {
        failed = next.status();
        break;
      }
      load_seconds.push_back(ToSeconds(Clock::Real()->Now() - begin));
      windows.push_back({begin, served.Publish(*std::move(next)) + kAfterFlip});
    }
    std::this_thread::sleep_for(2 * kAfterFlip);
    over = true;
  });
  std::vector<Sample> samples;
  while (!over) {
    const std::vector<Sample> more = served.Open(swaps.rate, settings.seconds);
    samples.insert(samples.end(), more.begin(), more.end());
  }
  swapper.join();
  if (!failed.ok()) return failed;

  LatencyHistogram within, outside;
  for (const Sample& sample : samples) {
    if (!sample.ok) {
      ++swaps.failed;
      continue;
    }
    const TimePoint answered = sample.intended + sample.latency;
    const bool beside = std::any_of(windows.begin(), windows.end(), [&](const Window& window) {
      return answered >= window.begin && sample.intended <= window.end;
    });
    (beside ? within : outside).Record(sample.latency);
  }
  swaps.load_seconds = SpreadOf(std::move(load_seconds));
  swaps.within = Summary(within);
  swaps.outside = Summary(outside);
  std::fprintf(stderr, "%s: p99 %.3f ms beside swaps, %.3f ms without\n", swaps.name.c_str(),
               swaps.within.p99_ms, swaps.outside.p99_ms);
  findings->swaps.push_back(std::move(swaps));
  return absl::OkStatus();
}

}  // namespace sconce::bench
