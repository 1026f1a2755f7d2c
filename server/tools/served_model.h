// OpenServed: from what a user has of a model to its network and its weights, as the server would
// serve it.
//
// A function, callable from any thread.
#ifndef SCONCE_SERVER_TOOLS_SERVED_MODEL_H_
#define SCONCE_SERVER_TOOLS_SERVED_MODEL_H_

#include <string>

#include "absl/status/statusor.h"
#include "server/program/open_model.h"

namespace sconce::tools {

struct ServedModel {
  OpenedModel model;
  // Whether the configuration wants every name.
  bool strict = true;
};

// `path`: a model's folder with a config.pbtxt or numbered folders, of which the highest counts; or
// whatever else OpenModel opens. Errors are those of the server's own loads, and name the file.
absl::StatusOr<ServedModel> OpenServed(const std::string& path, bool allow_native_code);

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_SERVED_MODEL_H_
