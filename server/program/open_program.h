// OpenProgram: from a file that says what is computed to an architecture, which is then treated as
// one of the catalog: its network has named tensors, is given weights strictly, run and swapped.
//
// What kind of program a file holds is told by its content. Functions, callable from any thread.

#ifndef SCONCE_SERVER_PROGRAM_OPEN_PROGRAM_H_
#define SCONCE_SERVER_PROGRAM_OPEN_PROGRAM_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "models/architecture.h"
#include "server/program/program_options.h"

namespace sconce {

enum class ProgramKind {
  kNone,  // weights alone, or nothing known
  kExportedProgram,
  kAotInductor,
  kTorchScript,
  kOnnx,
  kPlugin,
};

// What the file is, by its first bytes and its members' names alone; a folder is none. Errors are
// those of reading.
absl::StatusOr<ProgramKind> ProbeProgram(const std::string& path);

// The architecture that the program in `path` is, which ProbeProgram has said is of this kind, with
// its own name and no parameters. It holds what it needs: the file is not read again. Its networks'
// tensors have the names that the program's weights have, those of the state_dict of the module it
// was made from. INVALID_ARGUMENT, DATA_LOSS: what is wrong with the file, named;
// FAILED_PRECONDITION: native code that is not allowed, or something must be configured;
// UNIMPLEMENTED: an operator or a feature that is not supported, named.
absl::StatusOr<std::shared_ptr<const models::Architecture>> OpenProgram(
    const std::string& path, ProgramKind kind, const ProgramOptions& options);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_OPEN_PROGRAM_H_
