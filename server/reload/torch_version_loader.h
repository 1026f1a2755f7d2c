// TorchVersionLoader: a weights file becomes a ModelVersion by way of LibTorch. Opens the
// checkpoint, tells its architecture, reads the weights, does a strict load_state_dict and eval(),
// places a replica per instance and runs each once.
//
// Thread-safe; keeps nothing between loads. Owned by App.

#ifndef SCONCE_SERVER_RELOAD_TORCH_VERSION_LOADER_H_
#define SCONCE_SERVER_RELOAD_TORCH_VERSION_LOADER_H_

#include <c10/core/Device.h>

#include <memory>
#include <vector>

#include "server/checkpoint/checkpoint.h"
#include "server/device/device_health.h"
#include "server/reload/version_loader.h"

namespace sconce {

class TorchVersionLoader : public VersionLoader {
 public:
  // `devices`: where replicas go unless a model's configuration says otherwise.
  // `checkpoint_options`: how weights files are read. `health` outlives the versions.
  TorchVersionLoader(std::vector<c10::Device> devices, const CheckpointOptions& checkpoint_options,
                     DeviceHealth* health)
      : devices_(std::move(devices)), checkpoint_options_(checkpoint_options), health_(health) {}

  absl::StatusOr<std::unique_ptr<ModelVersion>> Load(const LoadRequest& request) override;

 private:
  absl::StatusOr<std::vector<c10::Device>> DevicesFor(const ModelConfig& config) const;

  const std::vector<c10::Device> devices_;
  const CheckpointOptions checkpoint_options_;
  DeviceHealth* const health_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_TORCH_VERSION_LOADER_H_
