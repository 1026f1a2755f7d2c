// TorchScript archives (torch.jit.trace, torch.jit.script, frozen modules) as architectures.
//
// The graph of forward() is inlined, checked against the rule for operators and then run by
// PyTorch's interpreter as it stands: no profiling, no compilation while requests wait. Tensors
// that are parameters or buffers are the network's weights under the names of its state_dict;
// other tensors, those of a frozen module among them, belong to the program.
//
// Callable from any thread.
#ifndef SCONCE_SERVER_PROGRAM_TORCHSCRIPT_H_
#define SCONCE_SERVER_PROGRAM_TORCHSCRIPT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "models/architecture.h"
#include "server/program/program_options.h"

namespace sconce {

// As OpenProgram (open_program.h), for a file that is a TorchScript archive.
absl::StatusOr<std::shared_ptr<const models::Architecture>> OpenTorchScript(
    const std::string& path, const ProgramOptions& options);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_TORCHSCRIPT_H_
