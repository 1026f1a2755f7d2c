// `sconce check`: whether a checkpoint would be served, and everything that is wrong with it.
#ifndef SCONCE_SERVER_TOOLS_CHECK_H_
#define SCONCE_SERVER_TOOLS_CHECK_H_

#include <string>

#include "absl/status/statusor.h"
#include "server/tools/console.h"

namespace sconce::tools {

struct CheckOptions {
  std::string path;
  // An architecture of the catalog, "resnet50" or "mlp(activation=gelu)"; "" to have it detected.
  std::string model;
};

// The exit status: 0 where it would load, else 1.
absl::StatusOr<int> Check(const CheckOptions& options, Console& console);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_CHECK_H_
