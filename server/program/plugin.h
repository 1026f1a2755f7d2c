// Plugins: architectures from a shared library (models/plugin.h). Functions, callable from any
// thread.

#ifndef SCONCE_SERVER_PROGRAM_PLUGIN_H_
#define SCONCE_SERVER_PROGRAM_PLUGIN_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/architecture.h"
#include "server/program/program_options.h"

namespace sconce {

// What the plugin at `path` offers; never empty. The library is loaded once for equal content, and
// stays until the process ends: nobody can know what of it still runs. What it throws becomes an
// error, except in Net::Forward and Net::Assign, which may throw anyway.
// FAILED_PRECONDITION: native code is not allowed, or the plugin was built for something else, with
// what; INVALID_ARGUMENT: it is no plugin, or cannot be loaded, with the reason.
absl::StatusOr<std::vector<std::shared_ptr<const models::Architecture>>> OpenPlugin(
    const std::string& path, const ProgramOptions& options);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_PLUGIN_H_
