// The message `architecture` of config.pbtxt where it declares a sequential network, checked. A
// part of config_file.cc; pure functions.

#ifndef SCONCE_SERVER_RELOAD_CONFIG_LAYERS_H_
#define SCONCE_SERVER_RELOAD_CONFIG_LAYERS_H_

#include "absl/status/status.h"
#include "proto/model_config.pb.h"
#include "server/registry/model_config.h"
#include "server/reload/located_config.h"

namespace sconce {

// The architecture that `layers` and `input` are for.
inline constexpr char kSequentialArchitecture[] = "sequential";

// Fills in the layers where that is the architecture; else there must not be any.
absl::Status CheckLayers(const Located<config::ModelArchitecture>& architecture, ModelConfig* out);

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_CONFIG_LAYERS_H_
