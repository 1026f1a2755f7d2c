// `sconce ctl`: asks a running server what it serves and tells it what to serve, through the admin
// service (proto/admin.proto) and the protocol's load and unload.
#ifndef SCONCE_SERVER_TOOLS_CTL_H_
#define SCONCE_SERVER_TOOLS_CTL_H_

#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "server/tools/console.h"

namespace sconce::tools {

struct CtlOptions {
  enum class Command { kStatus, kRollback, kPromote, kReload, kPin, kUnpin, kLoad, kUnload };
  Command command = Command::kStatus;
  std::string server = "localhost:8001";
  // For the whole command.
  std::chrono::milliseconds timeout{120'000};
  // "" only for kStatus: every model.
  std::string model;
  // Of kRollback and kPromote; 0: the server chooses.
  int64_t version = 0;
  // Of kStatus: one JSON object instead of text.
  bool json = false;
  // Of kLoad, in place of what the model's folder holds: JSON or the path of a file with it, and
  // the path of a weights file; "" for none.
  std::string config;
  std::string weights;
};

// The exit status, always 0; what the server refuses is an error.
absl::StatusOr<int> Ctl(const CtlOptions& options, Console& console);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_CTL_H_
