// Weights that are brought to devices beside those of the version that answers, with networks and
// replicas of their own. Called on the loading thread.

#ifndef SCONCE_SERVER_LOADER_BESIDE_H_
#define SCONCE_SERVER_LOADER_BESIDE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "server/device/upload/load_lanes.h"
#include "server/loader/admitted_load.h"
#include "server/loader/loader_parts.h"
#include "server/loader/step_clock.h"
#include "server/loader/weights_structure.h"
#include "server/registry/model_version.h"
#include "server/reload/version_loader.h"

namespace sconce {

// Errors are those of LoadWeights, WarmUp and CheckAnswers; FAILED_PRECONDITION where what was
// measured exceeds what the configuration allows. After an error nothing is left on the devices.
// REQUIRES: the lanes of the accelerators that the load was admitted to; not admitted in place.
absl::StatusOr<std::unique_ptr<ModelVersion>> LoadBeside(
    LoaderParts& parts, const LoadRequest& request, WeightsStructure& structure,
    AdmittedLoad admitted, const LoadLanes::Hold& lanes, StepClock& steps);

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_BESIDE_H_
