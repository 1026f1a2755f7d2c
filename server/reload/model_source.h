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
  // What the weights are run by, where that is a file: program.pt2, program.pt, program.onnx or
  // plugin.so. It is also `weights` where there are no others and it has its own.
  std::optional<SourceFile> program = {};
  // Of a Hugging Face folder, beside the weights: config.json, and then what else says what the
  // network is (modules.json, 1_Pooling/config.json).
  std::vector<SourceFile> hugging_face = {};
  // Where the weights are an index (model.safetensors.index.json): the weights files beside it, of
  // which the index names some or all.
  std::vector<SourceFile> shards = {};
  // The samples in the model's folder `golden`, by name.
  std::vector<SourceFile> golden = {};

  bool operator==(const ModelSource&) const = default;
};

// Fingerprint of the regular file that `path` leads to.
absl::StatusOr<SourceFile> ObserveFile(const std::string& path);

// Calls `visit(role, file)` for each file that a version is made from, in an order of its own.
template <typename Visit>
void ForEachFile(const ModelSource& source, Visit visit) {
  if (source.config.has_value()) visit("config", *source.config);
  if (source.weights.has_value()) visit("weights", *source.weights);
  if (source.program.has_value()) visit("program", *source.program);
  for (const SourceFile& file : source.hugging_face) visit("hugging face", file);
  for (const SourceFile& shard : source.shards) visit("shard", shard);
  for (const SourceFile& sample : source.golden) visit("golden", sample);
}

// Whether the files of `source` are still what they were, and no config.pbtxt has appeared in the
// model's `folder`.
bool IsUnchanged(const ModelSource& source, const std::string& folder);

// What tells this source from others, also after a restart: 64 hexadecimal digits made of names and
// fingerprints.
std::string FingerprintText(const ModelSource& source);

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_MODEL_SOURCE_H_
