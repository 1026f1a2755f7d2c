// RunTool: one of the commands that serve nothing, from its options to its exit status.
#ifndef SCONCE_SERVER_TOOLS_RUN_H_
#define SCONCE_SERVER_TOOLS_RUN_H_

#include <variant>

#include "server/tools/architectures.h"
#include "server/tools/check.h"
#include "server/tools/convert.h"
#include "server/tools/ctl.h"
#include "server/tools/devices.h"
#include "server/tools/diff.h"
#include "server/tools/inspect.h"
#include "server/tools/merge.h"
#include "server/tools/summary.h"

namespace sconce::tools {

using ToolOptions =
    std::variant<InspectOptions, CheckOptions, DiffOptions, ConvertOptions, MergeOptions,
                 DevicesOptions, CtlOptions, SummaryOptions, ArchitecturesOptions>;

// 0: done, or yes. 1: no, of `check` and `diff`. 2: could not be done; why is on stderr. 128 + n:
// ended by signal n. To be called once, before the process has other threads.
int RunTool(const ToolOptions& options);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_RUN_H_
