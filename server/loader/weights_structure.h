// WeightsStructure: everything that can be said of a weights file before a weight is read: that it
// is whole, what network it is of, that every tensor fits, what clients will send and get, and
// where each tensor will go; and what the golden samples hold.
//
// Made by CheckStructure, on any thread; then used by one thread.

#ifndef SCONCE_SERVER_LOADER_WEIGHTS_STRUCTURE_H_
#define SCONCE_SERVER_LOADER_WEIGHTS_STRUCTURE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/catalog.h"
#include "models/net.h"
#include "server/checkpoint/checkpoint.h"
#include "server/device/upload/upload_plan.h"
#include "server/loader/answers.h"
#include "server/loader/fold_norms.h"
#include "server/loader/loader_parts.h"
#include "server/loader/version_signature.h"
#include "server/registry/model_version.h"
#include "server/reload/version_loader.h"

namespace sconce {

struct WeightsStructure {
  std::unique_ptr<Checkpoint> checkpoint;
  models::Detection detection;
  VersionSignature signature;
  // What the weights are in memory once batch norms are folded, where that is configured.
  WeightsForm form;
  UploadPlan plan;
  FoldingMemory folding;
  // What the network holds beside its weights on a device other than the CPU.
  int64_t constant_bytes = 0;
  std::vector<Sample> golden;
  // Without what is known later: weights id, footprints, replicas.
  std::unique_ptr<ModelVersion> version;

  // A network that has no weights yet.
  absl::StatusOr<std::unique_ptr<models::Net>> NewNet() const {
    return detection.architecture->Create(detection.parameters);
  }
};

// Errors name the file.
absl::StatusOr<WeightsStructure> CheckStructure(const LoaderParts& parts,
                                                const LoadRequest& request);

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_WEIGHTS_STRUCTURE_H_
