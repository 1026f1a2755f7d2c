#include "server/reload/repository_scan.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <iterator>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/reload/model_folder.h"

namespace sconce {
namespace {

namespace fs = std::filesystem;

// Of a model that has more numbered folders, the highest ones are looked at, and those that its
// configuration names.
constexpr size_t kMaxNumbered = 1000;

// Where the files lie that `source` is made of: a change of theirs matters.
void AddFolders(const ModelSource& source, std::set<std::string>* folders) {
  ForEachFile(source, [folders](const char*, const SourceFile& file) {
    folders->insert(fs::path(file.resolved_path).parent_path().string());
  });
}

bool IsNamed(const VersionPolicy& policy, int64_t number) {
  return std::binary_search(policy.specific.begin(), policy.specific.end(), number);
}

}  // namespace

RepositoryScanner::RepositoryScanner(std::string repository, ConfigParser parse_config)
    : repository_(std::move(repository)), parse_config_(std::move(parse_config)) {}

absl::StatusOr<RepositorySnapshot> RepositoryScanner::Scan() {
  absl::StatusOr<std::vector<std::string>> entries = ListFolder(repository_);
  if (!entries.ok()) return entries.status();

  RepositorySnapshot snapshot;
  snapshot.folders.insert(repository_);
  for (const std::string& name : *entries) {
    if (IsHidden(name)) continue;
    const std::string folder = FolderOf(name);
    std::error_code error;
    const fs::file_status status = fs::status(folder, error);
    if (fs::exists(status) && !fs::is_directory(status)) {
      if (HasWeightsExtension(name)) {
        snapshot.ignored[name] =
            "a weights file belongs into a folder with the model's name, not into the repository";
      }
      continue;
    }
    if (!IsModelName(name)) {
      snapshot.ignored[name] = "a model's name is made of letters, digits, '.', '_' and '-'";
      continue;
    }
    // A link whose folder is not there yet (a volume that is mounted late) is a model already; a
    // plain entry that is gone by now is none.
    if (status.type() == fs::file_type::not_found &&
        !fs::is_symlink(fs::symlink_status(folder, error))) {
      continue;
    }
    snapshot.models[name] = Observe(name, &snapshot);
  }
  std::erase_if(configs_, [&snapshot](const auto& cached) {
    return snapshot.models.find(cached.first) == snapshot.models.end();
  });
  return snapshot;
}

ModelObservation RepositoryScanner::Observe(const std::string& model,
                                            RepositorySnapshot* snapshot) {
  const std::string folder = FolderOf(model);
  snapshot->folders.insert(folder);
  ModelObservation seen;
  absl::StatusOr<std::vector<std::string>> entries = ListFolder(folder);
  if (!entries.ok()) {
    seen.status = entries.status();
    return seen;
  }
  seen.status = ObserveConfig(model, *entries, &seen);
  if (seen.config == nullptr) {
    AddFolders(seen.source, &snapshot->folders);
    return seen;
  }
  if (std::binary_search(entries->begin(), entries->end(), kGoldenFolder)) {
    snapshot->folders.insert(absl::StrCat(folder, "/", kGoldenFolder));
    seen.status = ObserveGolden(folder, &seen.source);
  }
  NumberedFolders numbered = FindNumberedFolders(*entries, folder);
  for (const auto& [name, reason] : numbered.ignored) {
    if (name != seen.config->weights_file) {
      snapshot->ignored[absl::StrCat(model, "/", name)] = reason;
    }
  }
  if (seen.status.ok()) {
    seen.status = numbered.names.empty()
                      ? ObserveWeights(*entries, folder, *seen.config, &seen.source)
                      : ObserveNumbered(*entries, std::move(numbered.names), folder, &seen);
  }
  AddFolders(seen.source, &snapshot->folders);
  for (const auto& [number, version] : seen.numbered) {
    snapshot->folders.insert(absl::StrCat(folder, "/", number));
    AddFolders(version.source, &snapshot->folders);
  }
  return seen;
}

absl::Status RepositoryScanner::ObserveConfig(const std::string& model,
                                              const std::vector<std::string>& entries,
                                              ModelObservation* seen) {
  absl::StatusOr<SourceFile> file =
      ObserveFile(absl::StrCat(FolderOf(model), "/", kConfigFileName));
  if (file.ok()) {
    seen->source.config = *file;
    absl::StatusOr<std::shared_ptr<const ModelConfig>> config = ReadConfig(model, *file);
    if (config.ok()) seen->config = *config;
    return config.status();
  }
  // Also a config.pbtxt that is a link to nowhere: the defaults may not be what was meant.
  if (!absl::IsNotFound(file.status()) ||
      std::binary_search(entries.begin(), entries.end(), kConfigFileName)) {
    return file.status();
  }
  seen->config = std::make_shared<ModelConfig>();
  return absl::OkStatus();
}

absl::Status RepositoryScanner::ObserveNumbered(const std::vector<std::string>& entries,
                                                std::map<int64_t, std::string> names,
                                                const std::string& folder, ModelObservation* seen) {
  const ModelConfig& config = *seen->config;
  if (absl::Status status = ObserveProgram(entries, folder, config, &seen->source); !status.ok()) {
    return status;
  }
  const std::vector<std::string> beside = FindWeightsFiles(entries, folder, config);
  if (!beside.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("expected a weights file or numbered folders, got both: ", NameSome(beside),
                     " beside the folder ", names.rbegin()->second, "; one of them has to go"));
  }
  if (config.canary.share > 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        kConfigFileName, ": swap: canary: expected none with numbered folders, and there is ",
        names.rbegin()->second));
  }
  for (auto oldest = names.begin(); names.size() > kMaxNumbered && oldest != names.end();) {
    oldest =
        IsNamed(config.version_policy, oldest->first) ? std::next(oldest) : names.erase(oldest);
  }
  for (const auto& [number, name] : names) {
    ModelObservation::Numbered& version = seen->numbered[number];
    version.source = seen->source;
    const std::string path = absl::StrCat(folder, "/", name);
    const absl::StatusOr<std::vector<std::string>> files = ListFolder(path);
    version.status =
        files.ok() ? ObserveWeights(*files, path, config, &version.source) : files.status();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const ModelConfig>> RepositoryScanner::ReadConfig(
    const std::string& model, const SourceFile& file) {
  const auto cached = configs_.find(model);
  if (cached != configs_.end() && cached->second.file == file) return cached->second.config;

  absl::StatusOr<std::shared_ptr<const ModelConfig>> config;
  absl::StatusOr<ModelConfig> parsed = parse_config_(file.path);
  if (parsed.ok()) {
    config = std::make_shared<const ModelConfig>(*parsed);
  } else {
    config = parsed.status();
  }
  // A second write within one tick of the file system's clock leaves no trace in the fingerprint.
  const std::chrono::nanoseconds age = std::chrono::system_clock::now().time_since_epoch() -
                                       std::chrono::nanoseconds(file.fingerprint.mtime_ns);
  const bool lasting = parsed.ok() || absl::IsInvalidArgument(parsed.status());
  if (lasting && age > std::chrono::seconds(2)) {
    configs_.insert_or_assign(model, CachedConfig{.file = file, .config = config});
  } else {
    configs_.erase(model);
  }
  return config;
}

}  // namespace sconce
