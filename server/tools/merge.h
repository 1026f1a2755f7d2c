// `sconce merge`: the weights of several trained models blended into one.
#ifndef SCONCE_SERVER_TOOLS_MERGE_H_
#define SCONCE_SERVER_TOOLS_MERGE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/tools/console.h"
#include "server/tools/interruption.h"

namespace sconce::tools {

struct MergeOptions {
  std::vector<std::string> inputs;
  std::string output;
  std::vector<double> weights;  // one for each input; empty: 1 each
  // "": the average, sum(weight * input) / sum(weight). Else base + sum(weight * (input - base)).
  std::string base;
};

// The exit status.
absl::StatusOr<int> Merge(const MergeOptions& options, const Interruption& interruption,
                          Console& console);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_MERGE_H_
