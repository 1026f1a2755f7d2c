// The scenario of loading: from a weights file to tensors on the device.
#include <ATen/ops/empty.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bench/gpu/scenarios.h"
#include "models/catalog.h"
#include "server/base/clock.h"
#include "server/checkpoint/checkpoint.h"
#include "server/device/upload/pooled_weights.h"
#include "server/weights/load_state_dict.h"
#include "server/weights/state_dict.h"

namespace sconce::bench {
namespace {

constexpr double kLoadAim = 0.9;

// Eight layers, 1 GiB in all; names and shapes tell the network but for its activation.
Workload LargeMlp(bool quick) {
  const models::Architecture* mlp = nullptr;
  for (const models::Architecture* architecture : models::Catalog()) {
    if (architecture->name() == "mlp") mlp = architecture;
  }
  const int64_t width = quick ? 64 : 5792;
  std::string features = absl::StrCat(width), layers;
  for (int i = 0; i < 8; ++i) {
    absl::StrAppend(&features, ",", width);
    absl::StrAppend(&layers, i == 0 ? "" : ",", 2 * i);
  }
  Workload workload;
  workload.name = "mlp";
  workload.architecture = mlp;
  workload.parameters = {
      {"features", features}, {"layers", layers}, {"bias", "true"}, {"activation", "relu"}};
  workload.input = {"input", DType::kFloat32, {width}};
  return workload;
}

std::optional<c10::Stream> StreamOf(c10::Device device) {
  if (device.is_cpu()) return std::nullopt;
  return c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
}

Window GigabytesPerSecond(int64_t bytes, Duration took) {
  Window window;
  window.per_second = static_cast<double>(bytes) / ToSeconds(took) / 1e9;
  window.p50_ms = window.p99_ms = 1e3 * ToSeconds(took);
  return window;
}

// Memory on the device, filled from two page-locked pieces in turn, whose contents do not change.
Window CopyLoop(c10::Device device, int64_t bytes) {
  constexpr int64_t kPiece = int64_t{16} << 20;
  const std::optional<c10::Stream> stream = StreamOf(device);
  const c10::OptionalStreamGuard on(stream);
  const auto host = at::TensorOptions().dtype(at::kByte).pinned_memory(stream.has_value());
  static const at::Tensor pieces[] = {at::empty({kPiece}, host).fill_(1),
                                      at::empty({kPiece}, host).fill_(2)};
  const TimePoint begin = Clock::Real()->Now();
  at::Tensor there = at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(device));
  int turn = 0;
  for (int64_t at = 0; at < bytes; at += kPiece) {
    const int64_t size = std::min(kPiece, bytes - at);
    there.narrow(0, at, size).copy_(pieces[turn++ % 2].narrow(0, 0, size), /*non_blocking=*/true);
  }
  if (stream.has_value()) stream->synchronize();
  return GigabytesPerSecond(bytes, Clock::Real()->Now() - begin);
}

// What the server does up to the point where the network has its weights.
absl::StatusOr<Window> LoadOnce(const Versions& versions) {
  const Workload& workload = versions.workload();
  const auto parameters = models::ParseParameters(*workload.architecture, workload.parameters);
  if (!parameters.ok()) return parameters.status();
  const TimePoint begin = Clock::Real()->Now();
  const auto checkpoint = OpenCheckpoint(versions.first_path());
  if (!checkpoint.ok()) return checkpoint.status();
  auto net = workload.architecture->Create(*parameters);
  if (!net.ok()) return net.status();
  const auto fit = FitStateDict(**net, OutlineStateDict(**checkpoint));
  if (!fit.ok()) return fit.status();
  const auto plan = PlanUpload(**checkpoint, **net, *fit, WeightsForm{});
  if (!plan.ok()) return plan.status();
  TensorPool pool;
  DeviceHealth health;
  const WeightsTarget target{versions.device(), StreamOf(versions.device())};
  const auto loaded = LoadWeights(**checkpoint, *plan, {&target, 1}, {&pool, &health});
  if (!loaded.ok()) return loaded.status();
  loaded->resident[0]->AssignTo(**net);
  return GigabytesPerSecond(versions.weights_bytes(), Clock::Real()->Now() - begin);
}

}  // namespace

absl::Status MeasureLoad(const Settings& settings, Findings* findings) {
  const auto versions = Versions::Make(LargeMlp(settings.quick), settings.folder, settings.device);
  if (!versions.ok()) return versions.status();
  absl::Status failed;
  const auto load = [&] {
    const auto window = LoadOnce(**versions);
    if (!window.ok()) failed = window.status();
    return window.ok() ? *window : Window{};
  };
  Comparison comparison;
  comparison.name =
      absl::StrCat("load, ", (*versions)->weights_bytes() / 1000000, " MB from the page cache");
  comparison.unit = "GB/s";
  comparison.a_name = "page-locked copies";
  comparison.b_name = "load";
  comparison.aim = kLoadAim;
  load();  // what is set up once
  const auto copy = [&] { return CopyLoop(settings.device, (*versions)->weights_bytes()); };
  copy();
  InTurn(copy, load, settings.pairs, &comparison);
  if (!failed.ok()) return failed;
  const Spread ratio = comparison.Ratio();
  std::fprintf(stderr, "%s: %.3f (%.3f-%.3f)\n", comparison.name.c_str(), ratio.median, ratio.low,
               ratio.high);
  findings->comparisons.push_back(std::move(comparison));
  return absl::OkStatus();
}

}  // namespace sconce::bench
