// AOTInductor packages (.pt2 with machine code in it) as architectures. Functions, callable from
// any thread.

#ifndef SCONCE_SERVER_PROGRAM_AOT_PACKAGE_H_
#define SCONCE_SERVER_PROGRAM_AOT_PACKAGE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "models/architecture.h"
#include "server/program/program_options.h"

namespace sconce {

// As OpenProgram. Nothing of the package is written to a file system. Its networks' tensors are the
// parameters and buffers that the machine code reads from memory; those that the compiler inlined
// into it are not among them and cannot be given other values. Each network has its own container,
// which reads the memory that it was assigned: versions share nothing that is locked, and weights
// may be written over between batches. The package does not say what it takes and gives: `declared`
// has to.
// FAILED_PRECONDITION: native code is not allowed, it was compiled for another processor, or inputs
// and outputs are not declared; UNIMPLEMENTED: it is for another device than the CPU, or needs
// something beside its code.
absl::StatusOr<std::shared_ptr<const models::Architecture>> OpenAotPackage(
    const std::string& path, const ProgramOptions& options);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_AOT_PACKAGE_H_
