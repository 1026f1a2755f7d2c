// Reads a model's configuration: protobuf text or JSON (proto/model_config.proto) from an operator,
// checked in full before any of it is used. A library of its own, the only one of reload that needs
// protobuf. Pure functions, callable from any thread.

#ifndef SCONCE_SERVER_RELOAD_CONFIG_FILE_H_
#define SCONCE_SERVER_RELOAD_CONFIG_FILE_H_

#include <string>

#include "absl/status/statusor.h"
#include "server/registry/model_config.h"

namespace sconce {

// `path` is <repository>/<model>/config.pbtxt. INVALID_ARGUMENT: "config.pbtxt:LINE:COLUMN: what
// was expected and what came", both counted from 1, where the field or the unknown word stands;
// other codes where the file cannot be read.
absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& path);

// The same of the file's contents, for the model of that name.
absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& text, const std::string& model);

// The same of JSON, with the names of config.pbtxt. INVALID_ARGUMENT: "config: what was expected
// and what came".
absl::StatusOr<ModelConfig> ParseModelConfigJson(const std::string& json, const std::string& model);

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_CONFIG_FILE_H_
