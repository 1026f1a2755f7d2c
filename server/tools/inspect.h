// `sconce inspect`: what a checkpoint is and what is in it.
#ifndef SCONCE_SERVER_TOOLS_INSPECT_H_
#define SCONCE_SERVER_TOOLS_INSPECT_H_

#include <string>

#include "absl/status/statusor.h"
#include "server/tools/console.h"

namespace sconce::tools {

struct InspectOptions {
  std::string path;
  bool json = false;
  bool stats = false;
};

// The exit status.
absl::StatusOr<int> Inspect(const InspectOptions& options, Console& console);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_INSPECT_H_
