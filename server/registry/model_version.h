// ModelVersion: proven weights, placed on devices, with everything a batch needs. Immutable once
// published; shared by shared_ptr<const ModelVersion> ("pins"). The last pin hands the object to
// the Reaper, so that no request thread ever frees weights.

#ifndef SCONCE_SERVER_REGISTRY_MODEL_VERSION_H_
#define SCONCE_SERVER_REGISTRY_MODEL_VERSION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "server/device/device_footprint.h"
#include "server/device/replica.h"
#include "server/registry/model_config.h"
#include "server/registry/signature.h"

namespace sconce {

struct ModelVersion {
  std::string model;
  int64_t number = 0;      // 1, 2, ...: only rises while the server runs
  std::string weights_id;  // 128-bit content hash in hex: equal for equal weights, in any container
  std::string architecture;  // "resnet50(num_classes=10)"
  // How that was told, and what was made of the file's names; one line for the log.
  std::string provenance;
  std::string weights_path;
  int64_t weights_bytes = 0;
  Signature signature;
  ModelConfig config;
  std::vector<DeviceFootprint> footprints;  // by device it is on
  // Destroyed once the replicas are: gives back to the devices what these leave.
  std::shared_ptr<void> after_replicas;
  // One per executor of the model; never empty.
  std::vector<std::unique_ptr<Replica>> replicas;

  // "resnet50/7", the beginning of every message about a request.
  std::string Label() const { return model + "/" + std::to_string(number); }
};

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_MODEL_VERSION_H_
