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
#include "server/registry/prepared_deviation.h"
#include "server/registry/signature.h"

namespace sconce {

// What a version is made of that only its loader knows: on devices, the tensors and the networks.
class VersionResources {
 public:
  virtual ~VersionResources() = default;
};

struct ModelVersion {
  std::string model;
  // Of a file that is replaced in place 1, 2, ...; else the number of its folder.
  int64_t number = 0;
  std::string weights_id;  // 128-bit content hash in hex: equal for equal weights, in any container
  std::string architecture;  // "resnet50(num_classes=10)"
  // Of the program that is run, by its content; empty: the architecture says everything.
  std::string program_id;
  // How that was told, and what was made of the file's names; one line for the log.
  std::string provenance;
  std::string weights_path;
  int64_t weights_bytes = 0;
  Signature signature;
  ModelConfig config;
  std::vector<DeviceFootprint> footprints;  // by device it is on
  // By device, where the network was prepared.
  std::vector<PreparedDeviation> deviations;
  // What of weights_bytes was in memory already, as another version's.
  int64_t shared_bytes = 0;
  // Destroyed once the replicas are: gives back to the devices what these leave.
  std::shared_ptr<VersionResources> resources;
  // One per executor of the model; never empty. A version whose weights were written over those of
  // the one before has that one's replicas.
  std::vector<std::shared_ptr<Replica>> replicas;

  // Of the largest batch, and of the largest request.
  int64_t max_batch_rows() const { return LargestBatch(signature.rows, config.max_batch_size); }

  // "resnet50/7", the beginning of every message about a request.
  std::string Label() const { return model + "/" + std::to_string(number); }
};

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_MODEL_VERSION_H_
