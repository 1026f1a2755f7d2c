// TorchVersionLoader: a weights file becomes a ModelVersion by way of LibTorch. Opens the
// checkpoint, tells its architecture, checks that the weights fit it, chooses the devices that have
// room, brings the weights there, and lets each replica prove that it runs.
//
// Thread-safe; between loads it keeps what each model's batches took of memory. Owned by App.

#ifndef SCONCE_SERVER_LOADER_TORCH_VERSION_LOADER_H_
#define SCONCE_SERVER_LOADER_TORCH_VERSION_LOADER_H_

#include <c10/core/Device.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/catalog.h"
#include "server/base/mutex.h"
#include "server/checkpoint/checkpoint.h"
#include "server/device/device_health.h"
#include "server/device/upload/load_lanes.h"
#include "server/device/upload/placement.h"
#include "server/device/upload/upload_plan.h"
#include "server/reload/version_loader.h"

namespace sconce {

class TorchVersionLoader : public VersionLoader {
 public:
  // `devices`: where replicas go unless a model's configuration says otherwise.
  // `checkpoint_options`: how weights files are read. `health` and `catalog` outlive the versions.
  // `direct_storage`: devices read weights by themselves where they can.
  TorchVersionLoader(std::vector<c10::Device> devices, const CheckpointOptions& checkpoint_options,
                     DeviceHealth* health, bool direct_storage = false,
                     absl::Span<const models::Architecture* const> catalog = models::Catalog());

  absl::StatusOr<LoadedVersion> Load(const LoadRequest& request) override;

 private:
  class Loading;

  // The accelerators that a model of that configuration may be placed on.
  std::vector<c10::Device> AcceleratorsFor(const ModelConfig& config) const;
  // Which replicas go where, by index in all_devices_. REQUIRES: their lanes are held.
  absl::StatusOr<Placement> Place(const LoadRequest& request, const UploadPlan& plan) const;
  void Remember(const ModelVersion& version);

  // Those the server was given, and the CPU.
  const std::vector<c10::Device> all_devices_;
  const size_t chosen_;
  const CheckpointOptions checkpoint_options_;
  DeviceHealth* const health_;
  const bool direct_storage_;
  const absl::Span<const models::Architecture* const> catalog_;
  const std::shared_ptr<LoadLanes> lanes_;

  mutable Mutex mutex_;
  // By model and device: what a replica took beside the weights.
  std::map<std::string, std::map<std::string, int64_t>> replica_bytes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_TORCH_VERSION_LOADER_H_
