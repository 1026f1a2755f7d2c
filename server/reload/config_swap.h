// The `version_policy`, `swap` and `proof` fields of config.pbtxt, checked, each for itself and
// against the others. A part of config_file.cc; pure functions.

#ifndef SCONCE_SERVER_RELOAD_CONFIG_SWAP_H_
#define SCONCE_SERVER_RELOAD_CONFIG_SWAP_H_

#include "absl/status/status.h"
#include "proto/model_config.pb.h"
#include "server/registry/model_config.h"
#include "server/reload/located_config.h"

namespace sconce {

// Fills in what a new version has to show, and how it takes over.
absl::Status CheckSwap(const Located<config::ModelConfig>& config, ModelConfig* out);

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_CONFIG_SWAP_H_
