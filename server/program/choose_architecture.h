// ChooseArchitecture: what network a set of weights is given to, whatever says so: the operator, a
// program, a Hugging Face folder's config.json or the weights themselves.
//
// A function, callable from any thread.

#ifndef SCONCE_SERVER_PROGRAM_CHOOSE_ARCHITECTURE_H_
#define SCONCE_SERVER_PROGRAM_CHOOSE_ARCHITECTURE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/architecture.h"
#include "models/catalog.h"
#include "server/checkpoint/checkpoint.h"
#include "server/program/program_options.h"

namespace sconce {

// What may say it. Paths that are empty stand for files that are not there.
struct ArchitectureSources {
  std::string weights_path;
  // The same as the weights' where a program is its own weights.
  std::string program_path = "";
  // config.json, with what else belongs to it beside it.
  std::string hugging_face_path = "";
  models::Configured configured = {};
  // A network that the configuration declares layer by layer; null: it declares none.
  std::shared_ptr<const models::Architecture> declared = nullptr;
  ProgramOptions program = {};
};

// What lies beside the weights and may say it, by the names that such files have.
ArchitectureSources SourcesBeside(const Checkpoint& weights);

// The first of these that is there decides: the configuration, a program, weights that are a
// program themselves, config.json, the names and shapes in `state`. A lone TorchScript archive of
// which no inputs are declared cannot be run as a program: it is taken for weights where its names
// and shapes are those of a known network. Errors name the program or config.json where they are
// about that; those about the weights are models::Detect's.
absl::StatusOr<models::Detection> ChooseArchitecture(
    absl::Span<const models::NamedShape> state, const ArchitectureSources& sources,
    absl::Span<const models::Architecture* const> catalog = models::Catalog());

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_CHOOSE_ARCHITECTURE_H_
