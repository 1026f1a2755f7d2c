// `sconce devices`: what there is to serve on, and why CUDA is missing where it was expected.
#ifndef SCONCE_SERVER_TOOLS_DEVICES_H_
#define SCONCE_SERVER_TOOLS_DEVICES_H_

#include "absl/status/statusor.h"
#include "server/tools/console.h"

namespace sconce::tools {

struct DevicesOptions {
  bool json = false;
};

// The exit status.
absl::StatusOr<int> Devices(const DevicesOptions& options, Console& console);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_DEVICES_H_
