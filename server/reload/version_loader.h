// VersionLoader: from a weights file to a ModelVersion that has proven that it runs and answers as
// it should, not published yet. The seam between the reloader, which is free of torch, and
// LibTorch.
//
// Thread-safe: loads of different models run at the same time, on background threads.

#ifndef SCONCE_SERVER_RELOAD_VERSION_LOADER_H_
#define SCONCE_SERVER_RELOAD_VERSION_LOADER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/clock.h"
#include "server/base/version_state.h"
#include "server/registry/execution_gate.h"
#include "server/registry/model_config.h"
#include "server/registry/model_version.h"
#include "server/registry/recent_requests.h"

namespace sconce {

// Whose versions that are kept for a rollback.
enum class Retained { kOfThisModel, kOfAnyModel };

struct LoadRequest {
  std::string model;
  std::string weights_path;
  // ModelSource::program and ::hugging_face; empty: none.
  std::string program_path = "";
  std::string hugging_face_path = "";
  // The program, or weights that may be one, came with a client's request: nothing of it is run
  // that a client could not be trusted with.
  bool from_client = false;
  // The files of the model's folder `golden`: each holds a batch, its inputs and the outputs that
  // are expected, as tensors under the names of the signature.
  std::vector<std::string> golden_paths = {};
  ModelConfig config;
  // Number of the version to be made.
  int64_t number = 1;

  // What answers now, which an in-place load writes over; null: nothing, or the new version is to
  // stand beside it whatever the configuration says.
  std::shared_ptr<const ModelVersion> live = nullptr;
  // What `live` answered, for config.proof.agreement_requests.
  std::vector<std::shared_ptr<const RecentRequest>> recent = {};
  // Lets go of the oldest retained version, of this model or of any, and returns once its memory is
  // free; false where there is none. Null: as if there were none.
  std::function<bool(Retained)> release_retained = nullptr;
  // Null: nothing is written over.
  ExecutionGate* gate = nullptr;
  // Takes the model out of service: its weights were written over and cannot be brought back.
  // Called while its batches are held.
  std::function<void(const std::string& reason)> retire_live = nullptr;

  // Told of each step that was taken, and how long it took.
  std::function<void(VersionState, Duration)> on_step = nullptr;
};

// Weights that were written over those that answered, with the model's batches held meanwhile.
// Destroyed without Commit, it brings the weights back, or calls LoadRequest::retire_live where it
// cannot, and then lets batches go on.
class InPlaceChange {
 public:
  virtual ~InPlaceChange() = default;
  // The new version has been published: batches go on, with it.
  virtual void Commit() = 0;
};

struct LoadedVersion {
  std::unique_ptr<ModelVersion> version;
  // Null unless the version stands where LoadRequest::live stood. That one is not to be run any
  // more once it is committed.
  std::unique_ptr<InPlaceChange> in_place = nullptr;
};

class VersionLoader {
 public:
  virtual ~VersionLoader() = default;

  // Errors: INVALID_ARGUMENT, DATA_LOSS, FAILED_PRECONDITION = this file cannot be served, trying
  // again before it changes is useless; ABORTED = it changed while it was read; UNAVAILABLE,
  // RESOURCE_EXHAUSTED = may work later. Where a load failed before kAdmitted with
  // RESOURCE_EXHAUSTED, the memory that it needs is not free.
  virtual absl::StatusOr<LoadedVersion> Load(const LoadRequest& request) = 0;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_VERSION_LOADER_H_
