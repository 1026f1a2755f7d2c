// What an operator may say about a model in its config.pbtxt, as checked values with defaults.
// proto/model_config.proto is the text form; parsed by server/reload/config_file.h. A value type.

#ifndef SCONCE_SERVER_REGISTRY_MODEL_CONFIG_H_
#define SCONCE_SERVER_REGISTRY_MODEL_CONFIG_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "server/device/execution_options.h"
#include "server/device/instance_group.h"
#include "server/registry/signature.h"

namespace sconce {

struct ModelConfig {
  // Empty: the one weights file in the model's folder.
  std::string weights_file;
  // Empty: detected from the names and shapes of the weights.
  std::string architecture;
  std::map<std::string, std::string> architecture_parameters;
  // Empty: as the architecture says. Otherwise they name and bound its inputs and outputs.
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  bool strict = true;

  int64_t max_batch_size = 64;
  int64_t max_queue_size = 1024;  // requests that may wait
  // 0: requests without a deadline wait as long as it takes.
  std::chrono::microseconds default_timeout{0};
  // Empty: one group with its defaults.
  std::vector<InstanceGroup> instances;

  ExecutionOptions execution;
  // What the model may take of one device's memory; 0: what is there.
  int64_t device_memory_cap_bytes = 0;

  bool operator==(const ModelConfig&) const = default;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_MODEL_CONFIG_H_
