// RepositoryScanner: one look at the model repository. It says what each model's folder holds now;
// whether that is to be loaded is the reload policy's business.
//
// A model is a folder (or a link to one) of the repository. Its weights are the file its
// config.pbtxt names, the one file with a known extension or the one index of several; between the
// names that Hugging Face's libraries write, their order decides (known_names.h). A program beside
// them says what is computed with them, and is its own weights where there are no others. What is
// written before it is renamed (.tmp, .part, a leading dot) is not seen. Where the folder holds
// numbered ones, each of them is looked at in the same way; a program beside them is run by all
// that have none. Links are followed everywhere, so that what matters is the file that is reached:
// a ConfigMap's `model.pth -> ..data/model.pth` changes when `..data` does.

#ifndef SCONCE_SERVER_RELOAD_REPOSITORY_SCAN_H_
#define SCONCE_SERVER_RELOAD_REPOSITORY_SCAN_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/registry/model_config.h"
#include "server/reload/model_source.h"

namespace sconce {

struct ModelObservation {
  // OK: `source.weights` is there to be loaded. NOT_FOUND: no weights file yet. Otherwise what is
  // wrong with the folder or its config.pbtxt.
  absl::Status status;
  ModelSource source;
  // Of source.config, or the defaults; null where that is wrong.
  std::shared_ptr<const ModelConfig> config;

  // Where the folder holds numbered ones (1, 2, ...) in place of a weights file: each of them, by
  // number, with the model's config, program and golden samples. `source` then has no weights, and
  // `status` is OK.
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

  // Adds to `snapshot` what belongs beside the model.
  ModelObservation Observe(const std::string& model, RepositorySnapshot* snapshot);
  // Fills in the configuration; it stays null where that is wrong.
  absl::Status ObserveConfig(const std::string& model, const std::vector<std::string>& entries,
                             ModelObservation* seen);
  absl::Status ObserveNumbered(const std::vector<std::string>& entries,
                               std::map<int64_t, std::string> names, const std::string& folder,
                               ModelObservation* seen);
  absl::StatusOr<std::shared_ptr<const ModelConfig>> ReadConfig(const std::string& model,
                                                                const SourceFile& file);

  const std::string repository_;
  const ConfigParser parse_config_;
  // Parsed configs of files that have been left alone since.
  std::map<std::string, CachedConfig> configs_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_REPOSITORY_SCAN_H_
