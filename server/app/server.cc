#include "server/app/server.h"

#include <ATen/Parallel.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/app/version.h"
#include "server/base/address.h"
#include "server/base/clock.h"
#include "server/base/metrics.h"
#include "server/batching/batcher.h"
#include "server/device/device_health.h"
#include "server/device/device_set.h"
#include "server/http/http_server.h"
#include "server/registry/reaper.h"
#include "server/registry/registry.h"
#include "server/reload/config_file.h"
#include "server/reload/reloader.h"
#include "server/reload/torch_version_loader.h"
#include "server/rpc/grpc_server.h"

namespace sconce {
namespace {

// What a computation that does not end may cost a shutdown beyond its grace.
constexpr std::chrono::seconds kStuckAfter(2);

// Says what a person needs to know of the server's readiness, when it changes.
class ReadinessLog : public RegistryObserver {
 public:
  void OnModelAdded(const std::shared_ptr<Model>&) override {}
  void OnModelRemoved(const std::shared_ptr<Model>&) override {}
  void OnModelChanged(const std::shared_ptr<Model>&) override {}
  void OnReadyChanged(bool ready) override { spdlog::info(ready ? "ready" : "not ready any more"); }
};

void RefreshDeviceMemory(const DeviceSet& devices, Metrics* metrics) {
  for (const c10::Device device : devices.devices()) {
    const auto memory = MemoryOf(device);
    if (memory.ok()) {
      metrics->SetDeviceMemory(device.str(), memory->used_bytes, memory->total_bytes);
    }
  }
}

}  // namespace

// In the order of construction; destroyed the other way round.
struct Server::Parts {
  Parts(const ServeOptions& options, DeviceSet opened)
      : devices(std::move(opened)),
        batchers(&metrics, Clock::Real()),
        loader(devices.devices(), options.checkpoint, &device_health),
        reloader({options.model_repository,
                  {.settle = options.settle_time},
                  {.poll_interval = options.poll_interval}},
                 ReadModelConfig, &loader, &registry, &reaper, &metrics),
        grpc({.address = *ParseAddress(options.grpc_address)},
             {&registry, &batchers, &reloader, &metrics, Clock::Real()}, kVersion),
        http({.address = *ParseAddress(options.http_address)},
             {&registry, &metrics, [this] { RefreshDeviceMemory(devices, &metrics); }}) {
    registry.AddObserver(&batchers);
    registry.AddObserver(&grpc);
    registry.AddObserver(&readiness_log);
  }

  const DeviceSet devices;
  DeviceHealth device_health;
  Metrics metrics;
  Reaper reaper;
  ReadinessLog readiness_log;
  Registry registry;
  Batchers batchers;
  TorchVersionLoader loader;
  Reloader reloader;
  GrpcServer grpc;
  HttpServer http;
};

Server::Server(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

Server::~Server() = default;

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServeOptions& options) {
  auto devices = DeviceSet::Open(options.device);
  if (!devices.ok()) return devices.status();
  // Once, before any thread computes. One pool for the work within an operator; none between
  // operators, which networks here do not use.
  if (options.threads > 0) at::set_num_threads(options.threads);
  at::set_num_interop_threads(1);
  spdlog::info("sconce {}: devices {}; {} threads compute a batch on the CPU", kVersion,
               devices->reason(), at::get_num_threads());

  auto parts = std::make_unique<Parts>(options, *std::move(devices));
  const auto http = parts->http.Start();
  if (!http.ok()) return http.status();
  const auto grpc = parts->grpc.Start();
  if (!grpc.ok()) return grpc.status();
  spdlog::info("gRPC listening on {}", grpc->ToString());
  spdlog::info("HTTP listening on {}", http->ToString());
  parts->reloader.Start();
  return std::unique_ptr<Server>(new Server(std::move(parts)));
}

void Server::Stop(std::chrono::milliseconds grace) {
  const TimePoint deadline = Clock::Real()->Now() + grace;
  parts_->registry.BeginShutdown();

  // A network that does not return cannot be interrupted; the process ends without it.
  Mutex mutex;
  CondVar changed;
  bool stopped = false;
  Thread watchdog("sconce-stop", ThreadPriority::kNormal, [&] {
    MutexLock lock(&mutex);
    while (!stopped) {
      if (!changed.WaitUntil(&mutex, deadline + kStuckAfter) && !stopped) {
        spdlog::warn("a load or a batch does not end; ending without it");
        _exit(0);
      }
    }
  });

  {
    // At the same time: a load that an RPC waits for ends with the reloader, and one that goes on
    // does not keep requests from being answered.
    Thread loads("sconce-stop", ThreadPriority::kNormal, [&] { parts_->reloader.Stop(); });
    parts_->grpc.Shutdown(deadline);
  }
  for (const auto& model : parts_->registry.Models()) parts_->registry.Remove(model->name());
  parts_->http.Stop();
  {
    MutexLock lock(&mutex);
    stopped = true;
  }
  changed.Notify();
}

}  // namespace sconce
