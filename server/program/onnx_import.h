// ONNX models as programs: their operators become those of ATen in a graph of the executor's.
//
// Floating-point initialisers of one dimension or more are the network's weights, under the names
// that the file has for them; where the exporter kept the names of a state_dict, such weights can
// be swapped by name. All other initialisers are constants of the program. Answers are those of the
// model up to rounding, since ONNX's operators are cut differently from PyTorch's.
//
// Callable from any thread.
#ifndef SCONCE_SERVER_PROGRAM_ONNX_IMPORT_H_
#define SCONCE_SERVER_PROGRAM_ONNX_IMPORT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "models/architecture.h"
#include "server/program/program_options.h"

namespace sconce {

// As OpenProgram (open_program.h), for a file that is an ONNX model.
absl::StatusOr<std::shared_ptr<const models::Architecture>> OpenOnnxProgram(
    const std::string& path, const ProgramOptions& options);

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_ONNX_IMPORT_H_
