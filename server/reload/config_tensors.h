// The `input` and `output` fields of config.pbtxt, checked. A part of config_file.cc; pure
// functions.

#ifndef SCONCE_SERVER_RELOAD_CONFIG_TENSORS_H_
#define SCONCE_SERVER_RELOAD_CONFIG_TENSORS_H_

#include "absl/status/status.h"
#include "proto/model_config.pb.h"
#include "server/registry/model_config.h"
#include "server/reload/located_config.h"

namespace sconce {

// Fills in the inputs, what is done to them, and the outputs.
absl::Status CheckTensors(const Located<config::ModelConfig>& config, ModelConfig* out);

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_CONFIG_TENSORS_H_
