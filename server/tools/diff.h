// `sconce diff`: what differs between two checkpoints, and what a change from one to the other
// costs.
#ifndef SCONCE_SERVER_TOOLS_DIFF_H_
#define SCONCE_SERVER_TOOLS_DIFF_H_

#include <string>

#include "absl/status/statusor.h"
#include "server/tools/console.h"

namespace sconce::tools {

struct DiffOptions {
  std::string old_path;
  std::string new_path;
  bool json = false;
};

// The exit status: 0 where the weights are the same, else 1.
absl::StatusOr<int> Diff(const DiffOptions& options, Console& console);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_DIFF_H_
