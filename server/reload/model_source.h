// ModelSource: the files that a version is made from, as one look at a model's folder saw them.
// Values, and pure functions of the file system, callable from any thread.

#ifndef SCONCE_SERVER_RELOAD_MODEL_SOURCE_H_
#define SCONCE_SERVER_RELOAD_MODEL_SOURCE_H_

#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/file.h"

namespace sconce {

inline constexpr char kConfigFileName[] = "config.pbtxt";

// The status of a std::filesystem call that failed: NOT_FOUND, PERMISSION_DENIED or UNAVAILABLE.
absl::Status FilesystemStatus(const std::error_code& error, const std::string& path);

// A file as one look saw it.
struct SourceFile {
  std::string path;           // in the model's folder
  std::string resolved_path;  // where its links lead
  FileFingerprint fingerprint;

  bool operator==(const SourceFile&) const = default;
};

// What a version is made from. Two equal sources hold the same bytes.
struct ModelSource {
  std::optional<SourceFile> config;
  std::optional<SourceFile> weights;
  // Where the weights are an index (model.safetensors.index.json): the weights files beside it, of
  // which the index names some or all.
  std::vector<SourceFile> shards = {};
  // The samples in the model's folder `golden`, by name.
  std::vector<SourceFile> golden = {};

  bool operator==(const ModelSource&) const = default;
};

// Fingerprint of the regular file that `path` leads to.
absl::StatusOr<SourceFile> ObserveFile(const std::string& path);

// Whether the files of `source` are still what they were, and no config.pbtxt has appeared in the
// model's `folder`.
bool IsUnchanged(const ModelSource& source, const std::string& folder);

// What tells this source from others, also after a restart: 64 hexadecimal digits made of names and
// fingerprints.
std::string FingerprintText(const ModelSource& source);

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_MODEL_SOURCE_H_
