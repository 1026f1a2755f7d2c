// `sconce convert`: any checkpoint as a .safetensors file, its bytes kept exactly unless asked
// otherwise.
#ifndef SCONCE_SERVER_TOOLS_CONVERT_H_
#define SCONCE_SERVER_TOOLS_CONVERT_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "server/tools/console.h"
#include "server/tools/interruption.h"

namespace sconce::tools {

struct ConvertOptions {
  std::string input;
  std::string output;
  std::string dtype;                           // for floating-point tensors; "" keeps each its own
  std::string prefix;                          // "FROM=TO"; "" keeps the names
  bool dense = false;                          // quantised and sparse tensors as plain numbers
  int64_t max_dense_bytes = int64_t{1} << 30;  // of one such tensor
};

// The exit status.
absl::StatusOr<int> Convert(const ConvertOptions& options, const Interruption& interruption,
                            Console& console);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_CONVERT_H_
