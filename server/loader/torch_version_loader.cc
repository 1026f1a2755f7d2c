#include "server/loader/torch_version_loader.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "server/device/torch_errors.h"
#include "server/loader/admitted_load.h"
#include "server/loader/beside.h"
#include "server/loader/in_place.h"
#include "server/loader/step_clock.h"
#include "server/loader/weights_structure.h"

namespace sconce {

TorchVersionLoader::TorchVersionLoader(std::vector<c10::Device> devices,
                                       const CheckpointOptions& checkpoint_options,
                                       DeviceHealth* health, bool direct_storage,
                                       bool allow_native_code,
                                       absl::Span<const models::Architecture* const> catalog) {
  parts_.chosen = devices.size();
  parts_.devices = std::move(devices);
  const c10::Device cpu(c10::DeviceType::CPU);
  if (std::count(parts_.devices.begin(), parts_.devices.end(), cpu) == 0) {
    parts_.devices.push_back(cpu);
  }
  parts_.checkpoint_options = checkpoint_options;
  parts_.health = health;
  parts_.direct_storage = direct_storage;
  parts_.allow_native_code = allow_native_code;
  parts_.catalog = catalog;
}

absl::StatusOr<LoadedVersion> TorchVersionLoader::Load(const LoadRequest& request) {
  StepClock steps(request);
  bool no_room_beside = false;
  absl::Status beside;  // why there was none
  for (;;) {
    bool was_beside = false;
    // Whatever LibTorch throws where nobody expected it is the load's error and nothing else.
    auto loaded = Guarded(request.model,
                          [&] { return TryLoad(request, steps, no_room_beside, &was_beside); });
    if (!absl::IsResourceExhausted(loaded.status())) return loaded;
    if (!was_beside) return no_room_beside ? beside : loaded.status();
    // What was free did not do, such as where batches take more than those before were seen to.
    if (request.release_retained != nullptr && request.release_retained(Retained::kOfAnyModel)) {
      continue;
    }
    const bool may_write_over = request.config.swap != SwapMode::kBeside &&
                                request.live != nullptr && request.gate != nullptr;
    if (no_room_beside || !may_write_over) return loaded;
    no_room_beside = true;
    beside = loaded.status();
  }
}

absl::StatusOr<LoadedVersion> TorchVersionLoader::TryLoad(const LoadRequest& request,
                                                          StepClock& steps, bool no_room_beside,
                                                          bool* was_beside) {
  auto structure = CheckStructure(parts_, request);
  if (!structure.ok()) return structure.status();
  steps.End(VersionState::kStructureChecked);

  std::vector<c10::Device> accelerators = DevicesFor(parts_, request.config);
  std::erase_if(accelerators, [](c10::Device device) { return device.is_cpu(); });
  // Held until everything of a load that failed is gone.
  auto lanes = std::make_unique<LoadLanes::Hold>(parts_.lanes.get(), accelerators);
  steps.Skip();
  absl::Status over = CanWriteOver(request, *structure);
  auto admitted = AdmitLoad(parts_, request, *structure, *lanes, over, no_room_beside);
  if (!admitted.ok()) return admitted.status();
  steps.End(VersionState::kAdmitted);

  while (admitted->in_place) {
    bool shared = false;
    auto loaded =
        LoadInPlace(parts_, request, *structure, *admitted->survey, &lanes, steps, &shared);
    if (loaded.ok() || !shared) return loaded;
    // The model's retained versions may be those that share a tensor; where it is another model,
    // there is no other way than beside.
    if (request.release_retained == nullptr || !request.release_retained(Retained::kOfThisModel)) {
      over = loaded.status();
    }
    admitted = AdmitLoad(parts_, request, *structure, *lanes, over, no_room_beside);
    if (!admitted.ok()) return admitted.status();
  }
  *was_beside = true;
  auto version = LoadBeside(parts_, request, *structure, *std::move(admitted), *lanes, steps);
  if (!version.ok()) return version.status();
  parts_.ledger->RememberReplicas(**version);
  return LoadedVersion{*std::move(version), nullptr};
}

}  // namespace sconce
