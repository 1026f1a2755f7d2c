// What the JSON files of a Hugging Face folder say about the network whose weights lie beside them.
// Pure functions, thread-safe.
#ifndef SCONCE_MODELS_TEXT_HUGGING_FACE_H_
#define SCONCE_MODELS_TEXT_HUGGING_FACE_H_

#include <cstddef>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "models/catalog.h"

namespace sconce::models {

// The folder's files, in its own words; untrusted. Empty: there is no such file.
struct HuggingFaceFolder {
  std::string config;   // config.json
  std::string modules;  // modules.json, which sentence-transformers writes
  std::string pooling;  // 1_Pooling/config.json, which modules.json may name
};

// A longer file is refused.
inline constexpr size_t kMaxHuggingFaceBytes = size_t{4} << 20;

// The architecture and what of its parameters the weights do not tell, for Detect. None where the
// folder is of a kind of network that is not known here: then its weights have to tell.
// InvalidArgument: a file is not what it should be. FailedPrecondition: the network has something
// that is not supported; the message names the setting.
absl::StatusOr<std::optional<Configured>> FromHuggingFace(const HuggingFaceFolder& folder);

}  // namespace sconce::models

#endif  // SCONCE_MODELS_TEXT_HUGGING_FACE_H_
