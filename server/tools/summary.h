// `sconce summary`: a model's structure, layer by layer.
#ifndef SCONCE_SERVER_TOOLS_SUMMARY_H_
#define SCONCE_SERVER_TOOLS_SUMMARY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/tools/console.h"

namespace sconce::tools {

struct SummaryOptions {
  std::string path;
  // Of each input, without the batch: "3,224,224". Those that are not given are the model's own.
  std::vector<std::string> input_sizes;
  int64_t batch = 1;
  bool json = false;
  bool importance = false;
  bool allow_native_code = false;
  std::string samples;  // a file of inputs, by name; "": none
};

// The exit status.
absl::StatusOr<int> Summarise(const SummaryOptions& options, Console& console);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_SUMMARY_H_
