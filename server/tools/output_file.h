// What the commands that write a file have in common. Functions for one thread.
#ifndef SCONCE_SERVER_TOOLS_OUTPUT_FILE_H_
#define SCONCE_SERVER_TOOLS_OUTPUT_FILE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/safetensors/safetensors_writer.h"
#include "server/tools/console.h"

namespace sconce::tools {

// InvalidArgument where `output` does not end in ".safetensors" or is one of the files that are
// read, under whatever name.
absl::Status CheckOutput(const std::string& output, absl::Span<const Checkpoint* const> inputs);

// Many problems as one error, a line each. OK where there are none.
absl::Status AllProblems(const std::string& what, const std::vector<std::string>& problems);

// Commits the file, after a last look at what it was made of, and says so.
absl::Status Finish(SafetensorsWriter& writer, absl::Span<const Checkpoint* const> inputs,
                    const std::string& output, size_t tensors, Console& console);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_OUTPUT_FILE_H_
