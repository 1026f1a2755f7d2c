// `sconce architectures`: the networks the server knows, and the parameters they take.
#ifndef SCONCE_SERVER_TOOLS_ARCHITECTURES_H_
#define SCONCE_SERVER_TOOLS_ARCHITECTURES_H_

#include <string>

#include "absl/status/statusor.h"
#include "server/tools/console.h"

namespace sconce::tools {

struct ArchitecturesOptions {
  std::string name;  // empty: all
  bool json = false;
};

// The exit status. NotFound where nothing has that name.
absl::StatusOr<int> Architectures(const ArchitecturesOptions& options, Console& console);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_ARCHITECTURES_H_
