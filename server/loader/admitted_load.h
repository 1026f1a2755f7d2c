// AdmittedLoad: a load for which there is memory. What is decided by admission.h is carried out
// here: devices are asked what is free, retained versions are let go, files are surveyed.

#ifndef SCONCE_SERVER_LOADER_ADMITTED_LOAD_H_
#define SCONCE_SERVER_LOADER_ADMITTED_LOAD_H_

#include <c10/core/Device.h>

#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/host_memory_budget.h"
#include "server/device/upload/load_lanes.h"
#include "server/device/upload/placement.h"
#include "server/device/upload/pooled_weights.h"
#include "server/loader/loader_parts.h"
#include "server/loader/weights_structure.h"
#include "server/registry/model_config.h"
#include "server/reload/version_loader.h"

namespace sconce {

struct AdmittedLoad {
  bool in_place = false;
  Placement placement;                    // by index in LoaderParts::devices, unless in place
  std::unique_ptr<WeightsSurvey> survey;  // of the live version's devices where it is in place
  // What the weights will take of the host's memory.
  std::optional<HostMemoryBudget::Reservation> reserved;
  // What folding will take of it beside them.
  std::optional<HostMemoryBudget::Reservation> reserved_to_fold;
};

// Those that a model of that configuration may be placed on.
std::vector<c10::Device> DevicesFor(const LoaderParts& parts, const ModelConfig& config);

// Those that a load for them uses: with a stream of the load's on accelerators.
std::vector<WeightsTarget> TargetsOn(const std::vector<c10::Device>& devices,
                                     const LoadLanes::Hold& lanes);

// `over`: OK, or why the version cannot be written over the live one's weights. `no_room_beside`:
// it has been tried.
// RESOURCE_EXHAUSTED where it cannot be admitted, FAILED_PRECONDITION where it alone exceeds what
// its configuration allows it; errors of PlaceReplicas and of SurveyWeights.
// REQUIRES: the lanes of the accelerators among DevicesFor(...).
absl::StatusOr<AdmittedLoad> AdmitLoad(LoaderParts& parts, const LoadRequest& request,
                                       const WeightsStructure& structure,
                                       const LoadLanes::Hold& lanes, const absl::Status& over,
                                       bool no_room_beside);

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_ADMITTED_LOAD_H_
