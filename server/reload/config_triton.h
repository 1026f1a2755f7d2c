// What a model's configuration says in Triton's words and for Triton's PyTorch backend: told from
// what has another meaning here, or none. Parts of config_file.h.

#ifndef SCONCE_SERVER_RELOAD_CONFIG_TRITON_H_
#define SCONCE_SERVER_RELOAD_CONFIG_TRITON_H_

#include "absl/status/status.h"
#include "proto/model_config.pb.h"
#include "server/registry/model_config.h"
#include "server/reload/located_config.h"

namespace sconce {

// Whether the configuration is one for Triton's PyTorch backend, by its platform or backend.
bool IsForPyTorchBackend(const config::ModelConfig& config);

// Platform, backend, parameters and what of the rest is of Triton's alone. What is accepted and
// makes no difference is noted in `out`; errors as in config_file.h.
absl::Status CheckTriton(const Located<config::ModelConfig>& config, ModelConfig* out);

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_CONFIG_TRITON_H_
