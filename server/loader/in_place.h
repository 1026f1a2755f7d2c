// Weights that are written over those of the version that answers, while its batches are held.
// Replicas, networks and captured graphs stay, so that only what changed is moved. The new version
// is proven before the batches go on; where it fails, the weights from before come back.

#ifndef SCONCE_SERVER_LOADER_IN_PLACE_H_
#define SCONCE_SERVER_LOADER_IN_PLACE_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/device/upload/load_lanes.h"
#include "server/device/upload/pooled_weights.h"
#include "server/loader/loader_parts.h"
#include "server/loader/step_clock.h"
#include "server/loader/version_memory.h"
#include "server/loader/weights_structure.h"
#include "server/registry/model_version.h"
#include "server/reload/version_loader.h"

namespace sconce {

// Null where the version is not from this kind of loader.
const VersionMemory* MemoryOf(const ModelVersion& version);

// OK, or FAILED_PRECONDITION with the reason why the weights cannot be written over those of
// request.live: nothing answers, or it has another architecture, is run differently, or has lost a
// device.
absl::Status CanWriteOver(const LoadRequest& request, const WeightsStructure& structure);

// UNAVAILABLE where the batches could not be held in time. `*shared` is set where nothing was
// written because another version, which may be a retained one, has a tensor that changed.
// INVALID_ARGUMENT where the new version does not prove itself. In either case what answered before
// answers again, or the model was taken out of service.
// The lanes are taken over by what is returned; after an error they are where they were.
// REQUIRES: CanWriteOver; `survey` is of the devices that request.live is on, in its order.
absl::StatusOr<LoadedVersion> LoadInPlace(LoaderParts& parts, const LoadRequest& request,
                                          WeightsStructure& structure, const WeightsSurvey& survey,
                                          std::unique_ptr<LoadLanes::Hold>* lanes, StepClock& steps,
                                          bool* shared);

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_IN_PLACE_H_
