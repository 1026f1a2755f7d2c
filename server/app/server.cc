#include "server/app/server.h"

#include <ATen/Parallel.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/app/device_gauges.h"
#include "server/app/version.h"
#include "server/base/address.h"
#include "server/base/clock.h"
#include "server/base/metrics.h"
#include "server/batching/batchers.h"
#include "server/batching/watchdog.h"
#include "server/device/accelerator.h"
#include "server/device/device_health.h"
#include "server/device/device_set.h"
#include "server/device/torch_errors.h"
#include "server/http/http_server.h"
#include "server/loader/torch_version_loader.h"
#include "server/registry/reaper.h"
#include "server/registry/registry.h"
#include "server/reload/config_file.h"
#include "server/reload/following.h"
#include "server/reload/reloader.h"
#include "server/rpc/grpc_server.h"
#include "server/rpc/shared_memory_regions.h"

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

// Opens clients' memory on the server's devices; empty where none of them can.
SharedMemoryRegions::Opener SharedMemoryOn(const DeviceSet& devices) {
  std::vector<c10::Device> able;
  for (const c10::Device device : devices.devices()) {
    if (FindAccelerator(device.type()) != nullptr) able.push_back(device);
  }
  if (able.empty()) return nullptr;
  return [able](int64_t device_id, const std::string& handle,
                int64_t size_bytes) -> absl::StatusOr<DeviceBytes> {
    std::vector<std::string> known;
    for (const c10::Device device : able) {
      if (device.index() == device_id) {
        return Guarded(device.str(), [&] {
          return FindAccelerator(device.type())->OpenShared(device, handle, size_bytes);
        });
      }
      known.push_back(device.str());
    }
    return absl::InvalidArgumentError(
        absl::StrCat("expected the id of one of the server's devices (", absl::StrJoin(known, ", "),
                     "), got ", device_id));
  };
}

}  // namespace

// In the order of construction; destroyed the other way round.
struct Server::Parts {
  Parts(const ServeOptions& options, DeviceSet opened, std::function<void()> device_fault)
      : devices(std::move(opened)),
        on_device_fault(std::move(device_fault)),
        batchers(&metrics, Clock::Real(),
                 [this](const std::shared_ptr<Model>& model,
                        const std::shared_ptr<const ModelVersion>& version,
                        const std::string& reason) { RetireLost(model, *version, reason); }),
        watchdog([this] { return batchers.UnderWay(); }, &metrics, Clock::Real()),
        loader(devices.devices(), options.checkpoint, &device_health, options.gpu_direct_storage,
               options.allow_native_code),
        reloader({.repository = options.model_repository,
                  .times = {.settle = options.settle_time, .jitter = options.reload_jitter},
                  .watch = {.poll_interval = options.poll_interval},
                  .control = options.control,
                  .state_file = options.state_file},
                 {.file = ReadModelConfig, .json = ParseModelConfigJson}, &loader, &registry,
                 &reaper, &batchers, &metrics),
        device_gauges(&devices, &metrics),
        shared_memory(SharedMemoryOn(devices)),
        grpc({.address = *ParseAddress(options.grpc_address),
              .inline_weights_max_bytes = options.inline_weights_max_bytes,
              .control_mode = ControlModeName(options.control)},
             {&registry, &batchers, &reloader, &shared_memory, &metrics, Clock::Real()}, kVersion),
        http({.address = *ParseAddress(options.http_address)},
             {&registry, &metrics, [this] { device_gauges.Refresh(); }}) {
    registry.AddObserver(&batchers);
    registry.AddObserver(&grpc);
    registry.AddObserver(&readiness_log);
    for (const c10::Device device : devices.devices()) metrics.SetDeviceLost(device.str(), false);
    device_health.SetObserver([this](const std::string& device, const std::string& reason) {
      spdlog::error("device {} is lost until the process ends: {}", device, reason);
      metrics.SetDeviceLost(device, true);
      batchers.CheckHealth();
    });
  }

  void RetireLost(const std::shared_ptr<Model>& model, const ModelVersion& version,
                  const std::string& reason) {
    const Lost lost = registry.RetireLost(model, version, reason);
    if (lost == Lost::kNothing) return;
    spdlog::error("model '{}': version {} is out of service, no device it is on works: {}",
                  model->name(), version.number, reason);
    if (lost == Lost::kBeside) return;
    metrics.ForModel(model->name())->SetServingVersion(0, "");
    on_device_fault();
  }

  const DeviceSet devices;
  const std::function<void()> on_device_fault;
  DeviceHealth device_health;
  Metrics metrics;
  Reaper reaper;
  ReadinessLog readiness_log;
  Registry registry;
  Batchers batchers;
  Watchdog watchdog;
  TorchVersionLoader loader;
  Reloader reloader;
  DeviceGauges device_gauges;
  SharedMemoryRegions shared_memory;
  GrpcServer grpc;
  HttpServer http;
};

Server::Server(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

Server::~Server() = default;

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServeOptions& options,
                                                      std::function<void()> on_device_fault) {
  auto devices = DeviceSet::Open(options.device);
  if (!devices.ok()) return devices.status();
  // Once, before any thread computes. One pool for the work within an operator; none between
  // operators, which networks here do not use.
  if (options.threads > 0) at::set_num_threads(options.threads);
  at::set_num_interop_threads(1);
  spdlog::info("sconce {}: devices {}; {} threads compute a batch on the CPU", kVersion,
               devices->reason(), at::get_num_threads());

  auto parts = std::make_unique<Parts>(options, *std::move(devices), std::move(on_device_fault));
  const auto http = parts->http.Start();
  if (!http.ok()) return http.status();
  const auto grpc = parts->grpc.Start();
  if (!grpc.ok()) return grpc.status();
  spdlog::info("gRPC listening on {}", grpc->ToString());
  spdlog::info("HTTP listening on {}", http->ToString());
  parts->reloader.Start();
  return std::unique_ptr<Server>(new Server(std::move(parts)));
}

void Server::Stop(std::chrono::milliseconds grace, int exit_status) {
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
        _exit(exit_status);
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
