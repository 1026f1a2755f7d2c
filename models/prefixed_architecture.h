// Architectures whose tensors a checkpoint has under a prefix of its own, as those of a network
// that is another module's only part: "backbone.conv1.weight". Pure functions, thread-safe.
#ifndef SCONCE_MODELS_PREFIXED_ARCHITECTURE_H_
#define SCONCE_MODELS_PREFIXED_ARCHITECTURE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "models/architecture.h"

namespace sconce::models {

// What all names have in common before their last dots: "backbone." of "backbone.fc.weight" and
// "backbone.conv1.weight"; "" where that is nothing, or no name of modules.
std::string SharedPrefix(absl::Span<const NamedShape> state);

// `state` with `prefix` taken off the names that begin with it.
std::vector<NamedShape> WithoutPrefix(const std::string& prefix,
                                      absl::Span<const NamedShape> state);

// `bare`, whose NameOf takes `prefix` off.
std::shared_ptr<const Architecture> WithPrefix(std::string prefix,
                                               std::shared_ptr<const Architecture> bare);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_PREFIXED_ARCHITECTURE_H_
