// GrpcServer: the port on which the Open Inference Protocol, the admin service, grpc.health.v1 and
// server reflection are spoken.
//
// Owned by App. Observes the registry, from before the first model is added, to keep the health
// service true: "" is the server's readiness, a model's name whether that model answers. Start and
// Shutdown are called by any thread; the observer's calls come from the threads that change models.

#ifndef SCONCE_SERVER_RPC_GRPC_SERVER_H_
#define SCONCE_SERVER_RPC_GRPC_SERVER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/base/address.h"
#include "server/base/clock.h"
#include "server/base/metrics.h"
#include "server/batching/batchers.h"
#include "server/registry/registry.h"
#include "server/registry/repository_control.h"
#include "server/rpc/shared_memory_regions.h"

namespace sconce {

class GrpcServer final : public RegistryObserver {
 public:
  // Messages of protobuf stay below 2 GiB, and one holds more than the weights.
  static constexpr int64_t kMostInlineBytes = (int64_t{1} << 31) - (int64_t{4} << 20);

  struct Options {
    Address address{"0.0.0.0", 8001};
    // Of one request; a larger one is refused with RESOURCE_EXHAUSTED.
    int max_request_bytes = 64 << 20;
    // Of the weights that a RepositoryModelLoad may bring; 0: none. At most kMostInlineBytes.
    int64_t inline_weights_max_bytes = 0;
    // The server's --control, for the admin service; of static storage.
    std::string_view control_mode = "follow";
    // Threads that take requests and parse them; 0: as many as there are processors, up to 4.
    int threads = 0;
  };

  // All outlive the server.
  struct Parts {
    const Registry* registry;
    const Batchers* batchers;
    RepositoryControl* control;
    SharedMemoryRegions* regions;
    Metrics* metrics;
    const Clock* clock;
  };

  // `version` is the server's own, for ServerMetadata.
  GrpcServer(Options options, Parts parts, std::string version);
  // Shuts down without a grace.
  ~GrpcServer() override;

  // The address that listens now, with the port taken where 0 was asked for. UNAVAILABLE, with the
  // reason, where the port cannot be had; FAILED_PRECONDITION after Start or Shutdown.
  absl::StatusOr<Address> Start();

  // Takes no more calls, finishes those it has and returns; what is left at `deadline`, of the
  // machine's clock, is cancelled. Streams of health and reflection end once the rest is finished.
  // A load that was asked for by RPC is waited for: end the repository's control first. May be
  // called at any time, also again, and by several threads.
  void Shutdown(TimePoint deadline);

  void OnModelAdded(const std::shared_ptr<Model>& model) override;
  void OnModelRemoved(const std::shared_ptr<Model>& model) override;
  void OnModelChanged(const std::shared_ptr<Model>& model) override;
  void OnReadyChanged(bool ready) override;

 private:
  class Running;
  class Health;

  const Options options_;
  const Parts parts_;
  const std::string version_;
  const std::unique_ptr<Health> health_;

  Mutex mutex_;
  CondVar stopped_changed_;
  bool started_ ABSL_GUARDED_BY(mutex_) = false;
  bool shutting_down_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<Running> running_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_RPC_GRPC_SERVER_H_
