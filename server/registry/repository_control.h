// RepositoryControl: what an operator may ask of the repository by RPC. Implemented by the
// reloader. Thread-safe; called on RPC threads. All but Status return when it is done, or with why
// it is not: NOT_FOUND without such a model or version, FAILED_PRECONDITION where the model's state
// or the server's mode does not allow it, UNAVAILABLE while the server shuts down, else what a load
// failed of.

#ifndef SCONCE_SERVER_REGISTRY_REPOSITORY_CONTROL_H_
#define SCONCE_SERVER_REGISTRY_REPOSITORY_CONTROL_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/registry/model.h"

namespace sconce {

// What a client gives a load in place of what the model's folder holds.
struct LoadOverrides {
  // The configuration as JSON, with the names of config.pbtxt; empty: the folder's.
  std::string config_json;
  // Files by their names, such as "model.safetensors" and "program.pt2": at most one of weights,
  // and at most one program.
  std::map<std::string, std::string> files;

  bool empty() const { return config_json.empty() && files.empty(); }
};

struct ModelStatus {
  std::string model;
  bool pinned = false;
  bool unloaded = false;
  // Its weights came with a RepositoryModelLoad; the folder is not followed until the next one.
  bool inline_weights = false;
  Serving serving;
  // The last versions, the newest last.
  std::vector<VersionRecord> versions;
  std::string last_error;
};

class RepositoryControl {
 public:
  virtual ~RepositoryControl() = default;

  // Loads what the model's folder holds now, or what `overrides` brings, even if it was unloaded,
  // pinned, failed before or is unchanged; it may change the signature. A version that is to be
  // promoted by hand is loaded once it is held.
  virtual absl::Status Load(const std::string& model, LoadOverrides overrides) = 0;

  // Takes the model out of service until the next Load.
  virtual absl::Status Unload(const std::string& model) = 0;

  // Lets a retained version answer again; `number` 0: the one that answered before. What the folder
  // holds is not loaded until it changes. Gives the number of what answers now.
  virtual absl::StatusOr<int64_t> Rollback(const std::string& model, int64_t number) = 0;

  // Lets a version that is held, or a canary, answer everything; `number` 0: the one there is.
  virtual absl::StatusOr<int64_t> Promote(const std::string& model, int64_t number) = 0;

  // Stops following the folder, or goes on.
  virtual absl::Status SetPinned(const std::string& model, bool pinned) = 0;

  // Of that model, or of all.
  virtual absl::StatusOr<std::vector<ModelStatus>> Status(const std::string& model) = 0;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_REPOSITORY_CONTROL_H_
