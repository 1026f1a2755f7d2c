// VersionLoader: from a weights file to a ModelVersion that has proven that it runs, not published
// yet. The seam between the reloader, which is free of torch, and LibTorch.
//
// Thread-safe: loads of different models run at the same time, on background threads.

#ifndef SCONCE_SERVER_RELOAD_VERSION_LOADER_H_
#define SCONCE_SERVER_RELOAD_VERSION_LOADER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/base/clock.h"
#include "server/base/metrics.h"
#include "server/registry/model_config.h"
#include "server/registry/model_version.h"

namespace sconce {

struct LoadRequest {
  std::string model;
  std::string weights_path;
  ModelConfig config;
  // Number of the version to be made.
  int64_t number = 1;
  // Told of each phase that ended.
  std::function<void(LoadPhase, Duration)> on_phase;
};

class VersionLoader {
 public:
  virtual ~VersionLoader() = default;

  // Errors: INVALID_ARGUMENT, DATA_LOSS, FAILED_PRECONDITION = this file cannot be served, trying
  // again before it changes is useless; ABORTED = it changed while it was read; UNAVAILABLE,
  // RESOURCE_EXHAUSTED = may work later.
  virtual absl::StatusOr<std::unique_ptr<ModelVersion>> Load(const LoadRequest& request) = 0;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_VERSION_LOADER_H_
