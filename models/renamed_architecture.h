// Architectures whose tensors a checkpoint has under other names. Pure functions, thread-safe.
#ifndef SCONCE_MODELS_RENAMED_ARCHITECTURE_H_
#define SCONCE_MODELS_RENAMED_ARCHITECTURE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "models/architecture.h"

namespace sconce::models {

// The name that an architecture knows a tensor by which a checkpoint calls `saved`; "": it has no
// use for it. Called from any thread.
using Renaming = std::function<std::string(const std::string& saved)>;

// `original` in all but names: it is asked of the names that `renaming` gives.
std::shared_ptr<const Architecture> Renamed(std::shared_ptr<const Architecture> original,
                                            Renaming renaming);

// The tensors of `state` that have a name then, by it.
std::vector<NamedShape> Renamed(absl::Span<const NamedShape> state, const Renaming& renaming);

// Takes `prefix` off the names that begin with it.
Renaming WithoutPrefix(std::string prefix);

// What all names have in common before their last dots: "backbone." of "backbone.fc.weight" and
// "backbone.conv1.weight", as those of a network that is another module's only part; "" where that
// is nothing, or no name of modules.
std::string SharedPrefix(absl::Span<const NamedShape> state);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_RENAMED_ARCHITECTURE_H_
