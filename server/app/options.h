// The command line: every flag, its default and its check. docs and README are checked against
// --help by the tests.

#ifndef SCONCE_SERVER_APP_OPTIONS_H_
#define SCONCE_SERVER_APP_OPTIONS_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "server/checkpoint/checkpoint.h"
#include "server/reload/following.h"
#include "server/tools/run.h"

namespace sconce {

// What `sconce serve` ends with where --exit-on-device-fault ended it.
constexpr int kDeviceFaultStatus = 3;

struct ServeOptions {
  std::string model_repository;
  std::string grpc_address = "0.0.0.0:8001";
  std::string http_address = "0.0.0.0:8000";
  std::string device = "auto";
  int threads = 0;  // 0: one per core
  std::chrono::milliseconds poll_interval{1000};
  std::chrono::milliseconds settle_time{300};
  std::chrono::milliseconds reload_jitter{0};
  ControlMode control = ControlMode::kFollow;
  std::string state_file;  // empty: none
  std::chrono::milliseconds shutdown_grace{30000};
  bool exit_on_device_fault = false;
  bool gpu_direct_storage = false;
  bool allow_native_code = false;
  CheckpointOptions checkpoint;  // how weights files are read
  int64_t inline_weights_max_bytes = 0;
  std::string log_format = "human";
  std::string log_level = "info";
};

using Command = std::variant<ServeOptions, tools::ToolOptions>;

// Parses the command line. Where there is nothing to do (--help, --version, an error), prints what
// there is to say and sets `exit_status`.
std::optional<Command> ParseCommandLine(int argc, char** argv, int* exit_status);

}  // namespace sconce

#endif  // SCONCE_SERVER_APP_OPTIONS_H_
