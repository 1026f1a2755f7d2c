// OpenModel and LoadModel: from a file to a network with its weights, as the server does it: what
// the network is is told by the file, and the weights are loaded strictly.
//
// Functions, callable from any thread.

#ifndef SCONCE_SERVER_PROGRAM_OPEN_MODEL_H_
#define SCONCE_SERVER_PROGRAM_OPEN_MODEL_H_

#include <c10/core/Device.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "models/architecture.h"
#include "models/catalog.h"
#include "models/net.h"
#include "server/checkpoint/checkpoint.h"
#include "server/program/program_options.h"
#include "server/weights/load_state_dict.h"

namespace sconce {

struct ModelOptions {
  // What the weights are of; empty: a program, a config.json or they themselves tell.
  models::Configured configured = {};
  ProgramOptions program = {};
  CheckpointOptions checkpoint = {};
};

// A model's files: what its network is, and its weights, of which none has been read.
struct OpenedModel {
  std::unique_ptr<Checkpoint> weights;
  models::Detection detection;

  // A network of its own that has no weights yet.
  absl::StatusOr<std::unique_ptr<models::Net>> NewNet() const {
    return detection.architecture->Create(detection.parameters);
  }
};

// `path`: a weights file, a file that holds a program and its weights, or a folder of either. A
// program beside the weights ("program.pt2", "program.pt", "program.onnx", "plugin.so") is heeded,
// and so is Hugging Face's config.json. Errors are those of OpenCheckpoint and ChooseArchitecture.
absl::StatusOr<OpenedModel> OpenModel(const std::string& path, const ModelOptions& options = {});

// The network with its weights on the CPU, ready to be run. Its tensors own their memory. Errors
// are those of ReadStateDict and LoadStateDict.
absl::StatusOr<std::unique_ptr<models::Net>> LoadModel(const OpenedModel& model,
                                                       const LoadOptions& options = {});

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_OPEN_MODEL_H_
