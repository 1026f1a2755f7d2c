// RepositoryControl: what an operator may ask of the repository by RPC. Implemented by the reloader.
// Thread-safe; called on RPC threads.

#ifndef SCONCE_SERVER_REGISTRY_REPOSITORY_CONTROL_H_
#define SCONCE_SERVER_REGISTRY_REPOSITORY_CONTROL_H_

#include <string>

#include "absl/status/status.h"

namespace sconce {

class RepositoryControl {
 public:
  virtual ~RepositoryControl() = default;

  // Loads what the model's folder holds now, even if it was unloaded, failed before or is
  // unchanged, and may change its signature. Returns when the version answers, or why it does not:
  // NOT_FOUND without such a folder, else INVALID_ARGUMENT, UNAVAILABLE, ...
  virtual absl::Status Load(const std::string& model) = 0;

  // Takes the model out of service until the next Load; NOT_FOUND if there is none.
  virtual absl::Status Unload(const std::string& model) = 0;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_REPOSITORY_CONTROL_H_
