// ProgramOptions: what may be done with a program and what is known of it beside its file.

#ifndef SCONCE_SERVER_PROGRAM_PROGRAM_OPTIONS_H_
#define SCONCE_SERVER_PROGRAM_PROGRAM_OPTIONS_H_

#include <cstdint>

#include "models/net.h"

namespace sconce {

struct ProgramOptions {
  // Whether machine code from the file may be run: plugins and AOTInductor packages.
  bool allow_native_code = false;
  // What the model's configuration says of inputs and outputs; no specs where it says nothing. A
  // kind of program that does not say itself (TorchScript) needs them.
  models::Signature declared = {};
  // Of the part of the file that is not weights.
  int64_t max_metadata_bytes = int64_t{1} << 30;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_PROGRAM_PROGRAM_OPTIONS_H_
