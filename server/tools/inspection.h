// Inspection: everything that `sconce inspect` says of a checkpoint, gathered before any of it is
// printed. A value; made by InspectCheckpoint.
#ifndef SCONCE_SERVER_TOOLS_INSPECTION_H_
#define SCONCE_SERVER_TOOLS_INSPECTION_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "server/checkpoint/checkpoint.h"
#include "server/tools/arithmetic.h"
#include "server/tools/console.h"

namespace sconce::tools {

struct Inspection {
  int64_t file_bytes = 0;    // of all files
  int64_t tensor_bytes = 0;  // of what the tensors refer to, tied ones once
  // Elements of the tensors, tied ones once, without batch norm's running values.
  int64_t parameters = 0;
  std::string stripped_prefix;
  std::string architecture;  // "resnet50(num_classes=10)", "" where none fits
  std::string why;           // why it is that one, or none
  // By tensor:
  std::vector<size_t> tied_to;  // the first tensor that is the same view; itself if none
  std::vector<std::optional<Statistics>> statistics;
};

// REQUIRES: the tensors' sizes have been found to add up (DescribeState).
absl::StatusOr<Inspection> InspectCheckpoint(const Checkpoint& checkpoint, bool statistics,
                                             Console& console);

// The document of --json.
nlohmann::ordered_json ToJson(const Checkpoint& checkpoint, const Inspection& inspection);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_INSPECTION_H_
