// TorchVersionLoader: a weights file becomes a ModelVersion by way of LibTorch, by the steps of
// VersionState: its structure is checked (weights_structure.h), it is admitted (admitted_load.h),
// brought to the devices, given to networks, prepared, warmed up and checked (beside.h), or written
// over the version that answers (in_place.h).
//
// Thread-safe; between loads it keeps what each model takes of memory. Owned by App.

#ifndef SCONCE_SERVER_LOADER_TORCH_VERSION_LOADER_H_
#define SCONCE_SERVER_LOADER_TORCH_VERSION_LOADER_H_

#include <c10/core/Device.h>

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/catalog.h"
#include "server/checkpoint/checkpoint.h"
#include "server/device/device_health.h"
#include "server/loader/loader_parts.h"
#include "server/loader/step_clock.h"
#include "server/reload/version_loader.h"

namespace sconce {

class TorchVersionLoader : public VersionLoader {
 public:
  // `devices`: where replicas go unless a model's configuration says otherwise.
  // `checkpoint_options`: how weights files are read. `health` and `catalog` outlive the versions.
  // `direct_storage`: devices read weights by themselves where they can. `allow_native_code`:
  // plugins and AOTInductor packages are run.
  TorchVersionLoader(std::vector<c10::Device> devices, const CheckpointOptions& checkpoint_options,
                     DeviceHealth* health, bool direct_storage = false,
                     bool allow_native_code = false,
                     absl::Span<const models::Architecture* const> catalog = models::Catalog());

  absl::StatusOr<LoadedVersion> Load(const LoadRequest& request) override;

 private:
  // `no_room_beside`: what was admitted beside did not have the memory that it wanted. Sets
  // `*was_beside` where it tries that.
  absl::StatusOr<LoadedVersion> TryLoad(const LoadRequest& request, StepClock& steps,
                                        bool no_room_beside, bool* was_beside);

  LoaderParts parts_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_TORCH_VERSION_LOADER_H_
