// The catalog: every architecture Sconce knows, and how the one that a set of weights belongs to is
// found. Pure functions, thread-safe.
#ifndef SCONCE_MODELS_CATALOG_H_
#define SCONCE_MODELS_CATALOG_H_

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "models/architecture.h"

namespace sconce::models {

absl::Span<const Architecture* const> Catalog();

// What the operator says: the message `architecture` of config.pbtxt.
struct Configured {
  std::string architecture;  // empty: to be detected
  std::map<std::string, std::string> parameters;
};

struct Detection {
  // Shared, because not all come from the catalog; those that do belong to nobody.
  std::shared_ptr<const Architecture> architecture;
  Parameters parameters;
  // Fit for a log line: how it was told, and what was assumed.
  std::string why;
};

// Detects the architecture of a state_dict whose wrapper prefixes are already stripped. Where the
// weights are of nothing known, and all names begin alike ("backbone."), as those of a network that
// is another module's only part do, they are looked at without that; the architecture's NameOf then
// takes it off. An architecture that is configured is taken without checking that every tensor
// fits, so that load_state_dict can say what differs in the words people know. FailedPrecondition
// where the weights are unknown or ambiguous: the message says what was seen, what came nearest and
// which configuration would settle it. InvalidArgument where the configuration itself is wrong.
absl::StatusOr<Detection> Detect(absl::Span<const NamedShape> state, const Configured& configured,
                                 absl::Span<const Architecture* const> catalog = Catalog());

// Where Detect knows of nothing that fits: the network that comes nearest, for whoever wants to
// know everything that differs from it. None where less than half of the two is alike.
std::optional<Detection> Nearest(absl::Span<const NamedShape> state,
                                 absl::Span<const Architecture* const> catalog = Catalog());

}  // namespace sconce::models

#endif  // SCONCE_MODELS_CATALOG_H_
