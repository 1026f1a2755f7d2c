// OpenExportedProgram: an archive that torch.export.save wrote (PyTorch 2.8 and later) as an
// architecture: its graph runs in the executor of models/program, and its parameters and persistent
// buffers have the names of the module's state_dict. A function; callable from any thread.

#ifndef SCONCE_SERVER_PROGRAM_EXPORTED_PROGRAM_H_
#define SCONCE_SERVER_PROGRAM_EXPORTED_PROGRAM_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "models/architecture.h"
#include "server/program/program_options.h"

namespace sconce {

// As OpenProgram. The weights in the archive are not looked at: OpenCheckpoint reads them.
absl::StatusOr<std::shared_ptr<const models::Architecture>> OpenExportedProgram(
    const std::string& path, const ProgramOptions& options);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_EXPORTED_PROGRAM_H_
