// RepositoryScanner: one look at the model repository. It says what each model's folder holds now;
// whether that is to be loaded is the reload policy's business.
//
// A model is a folder (or a link to one) of the repository. Its weights are the file its
// config.pbtxt names, the one file with a known extension or the one index of several; between the
// names that Hugging Face's libraries write, their order decides (known_names.h). What programs
// write before they rename it (.tmp, .part, a leading dot) is not seen. Links are followed
// everywhere, so that what matters is the file that is reached: a ConfigMap's
// `model.pth -> ..data/model.pth` changes when `..data` does.

#ifndef SCONCE_SERVER_RELOAD_REPOSITORY_SCAN_H_
#define SCONCE_SERVER_RELOAD_REPOSITORY_SCAN_H_

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/file.h"
#include "server/registry/model_config.h"

namespace sconce {

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

struct ModelObservation {
  // OK: `source.weights` is there to be loaded. NOT_FOUND: no weights file yet. Otherwise what is
  // wrong with the folder or its config.pbtxt.
  absl::Status status;
  ModelSource source;
  // Of source.config, or the defaults; null where that is wrong.
  std::shared_ptr<const ModelConfig> config;

  // Where the folder holds numbered ones (1, 2, ...) in place of a weights file: each of them, by
  // number, with the model's config and golden samples. `source` then has no weights, and `status`
  // is OK.
  struct Numbered {
    absl::Status status;
    ModelSource source;

    bool operator==(const Numbered&) const = default;
  };
  std::map<int64_t, Numbered> numbered = {};
};

struct RepositorySnapshot {
  std::map<std::string, ModelObservation> models;
  // Entries that look like models and are none, with the reason.
  std::map<std::string, std::string> ignored;
  // Every folder in which a change may matter.
  std::set<std::string> folders;
};

// Reads and checks the config.pbtxt at `path` (server/reload/config_file.h).
using ConfigParser = std::function<absl::StatusOr<ModelConfig>(const std::string& path)>;

// Fingerprint of the regular file that `path` leads to.
absl::StatusOr<SourceFile> ObserveFile(const std::string& path);

// Whether the files of `source` are still what they were, and no config.pbtxt has appeared in
// `folder`.
bool IsUnchanged(const ModelSource& source, const std::string& folder);

// Used by one thread at a time.
class RepositoryScanner {
 public:
  RepositoryScanner(std::string repository, ConfigParser parse_config);

  const std::string& repository() const { return repository_; }
  std::string FolderOf(const std::string& model) const { return repository_ + "/" + model; }

  // Fails as a whole where the repository cannot be listed: then nothing is known of any model. One
  // model's trouble is in its observation.
  absl::StatusOr<RepositorySnapshot> Scan();

 private:
  struct CachedConfig {
    SourceFile file;
    absl::StatusOr<std::shared_ptr<const ModelConfig>> config;
  };

  ModelObservation Observe(const std::string& model);
  absl::StatusOr<std::shared_ptr<const ModelConfig>> ReadConfig(const std::string& model,
                                                                const SourceFile& file);

  const std::string repository_;
  const ConfigParser parse_config_;
  // Parsed configs of files that have been left alone since.
  std::map<std::string, CachedConfig> configs_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_REPOSITORY_SCAN_H_
