#include "server/reload/repository_scan.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "server/base/printable.h"
#include "server/checkpoint/folder/known_names.h"

namespace sconce {
namespace {

namespace fs = std::filesystem;

constexpr absl::string_view kConfigName = "config.pbtxt";
constexpr std::array<absl::string_view, 5> kWeightsExtensions = {".pth", ".pt", ".bin", ".ckpt",
                                                                 ".safetensors"};
constexpr std::array<absl::string_view, 2> kIndexEndings = {".safetensors.index.json",
                                                            ".bin.index.json"};
// Folders of more entries than this are no models; messages name a few of them only.
constexpr size_t kMaxEntries = 10'000;
constexpr size_t kMaxNamed = 5;

bool IsHidden(absl::string_view name) { return absl::StartsWith(name, "."); }

bool HasWeightsExtension(absl::string_view name) {
  const std::string lower = absl::AsciiStrToLower(name);
  return std::any_of(kWeightsExtensions.begin(), kWeightsExtensions.end(),
                     [&lower](absl::string_view extension) {
                       return lower.size() > extension.size() && absl::EndsWith(lower, extension);
                     });
}

bool IsIndex(absl::string_view name) {
  return std::any_of(kIndexEndings.begin(), kIndexEndings.end(), [name](absl::string_view ending) {
    return name.size() > ending.size() && absl::EndsWith(name, ending);
  });
}

bool IsModelName(absl::string_view name) {
  return std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
  });
}

bool IsNumber(absl::string_view name) {
  return std::all_of(name.begin(), name.end(),
                     [](char c) { return absl::ascii_isdigit(static_cast<unsigned char>(c)); });
}

absl::Status ErrorOf(const std::error_code& error, const std::string& path) {
  const std::string message = absl::StrCat(Printable(path), ": cannot be read: ", error.message());
  if (error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory) {
    return absl::NotFoundError(message);
  }
  if (error == std::errc::permission_denied) return absl::PermissionDeniedError(message);
  return absl::UnavailableError(message);
}

// Names of the entries, sorted. A listing that breaks off is an error and not a short listing.
absl::StatusOr<std::vector<std::string>> List(const std::string& folder) {
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  std::vector<std::string> names;
  while (!error && entry != fs::directory_iterator()) {
    names.push_back(entry->path().filename().string());
    if (names.size() > kMaxEntries) {
      return absl::FailedPreconditionError(absl::StrCat(Printable(folder), ": expected at most ",
                                                        kMaxEntries, " entries, got more"));
    }
    entry.increment(error);
  }
  if (error) return ErrorOf(error, folder);
  std::sort(names.begin(), names.end());
  return names;
}

std::string NameSome(const std::vector<std::string>& names) {
  const size_t count = std::min(names.size(), kMaxNamed);
  std::string text = absl::StrJoin(
      names.begin(), names.begin() + static_cast<ptrdiff_t>(count), ", ",
      [](std::string* out, const std::string& name) { absl::StrAppend(out, Printable(name)); });
  if (count < names.size()) absl::StrAppend(&text, " and ", names.size() - count, " more");
  return text;
}

// The one among `candidates` and `indexes` that has the first of the names of Hugging Face's
// libraries, as Checkpoint chooses in a folder; "" where there is none, or a file of weights that
// could be meant as well.
std::string ChooseKnown(const std::vector<std::string>& candidates,
                        const std::vector<std::string>& indexes) {
  const auto is_known = [](const std::string& name) {
    return std::find(kKnownWeightsNames.begin(), kKnownWeightsNames.end(), name) !=
           kKnownWeightsNames.end();
  };
  // Beside an index the others may be its parts.
  if (indexes.empty() && !std::all_of(candidates.begin(), candidates.end(), is_known)) return "";
  for (const std::string_view known : kKnownWeightsNames) {
    for (const std::vector<std::string>* names : {&candidates, &indexes}) {
      if (std::find(names->begin(), names->end(), known) != names->end()) return std::string(known);
    }
  }
  return "";
}

// The file name of the model's weights among the folder's entries.
absl::StatusOr<std::string> ChooseWeights(const std::vector<std::string>& entries,
                                          const std::string& folder, const ModelConfig& config) {
  std::vector<std::string> candidates;
  std::vector<std::string> indexes;
  std::vector<std::string> numbered;
  for (const std::string& name : entries) {
    if (IsHidden(name)) continue;
    std::error_code error;
    const bool is_folder = fs::is_directory(folder + "/" + name, error);
    if (is_folder && IsNumber(name)) numbered.push_back(name);
    if (!is_folder && HasWeightsExtension(name)) candidates.push_back(name);
    if (!is_folder && IsIndex(name)) indexes.push_back(name);
  }
  if (!config.weights_file.empty()) {
    const std::string& wanted = config.weights_file;
    if (std::binary_search(entries.begin(), entries.end(), wanted)) return wanted;
    return absl::NotFoundError(absl::StrCat(
        kConfigName, " names the weights file '", Printable(wanted), "', which is not there",
        candidates.empty() ? "" : absl::StrCat("; the folder holds ", NameSome(candidates))));
  }
  if (std::string known = ChooseKnown(candidates, indexes); !known.empty()) return known;
  // Several files with an index are the parts of one checkpoint; so may a single one be.
  if (indexes.size() == 1) return indexes.front();
  if (candidates.size() == 1) return candidates.front();
  if (candidates.size() > 1) {
    return absl::FailedPreconditionError(absl::StrCat(
        "expected one weights file, got ", candidates.size(), ": ", NameSome(candidates),
        "; a line in ", kConfigName, " settles which one is served, e.g. weights: \"",
        Printable(candidates.front()), "\""));
  }
  if (!numbered.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("numbered sub-folders (", NameSome(numbered),
                     ") are not supported: put the weights file into the model's folder itself"));
  }
  return absl::NotFoundError(absl::StrCat("no weights file yet; expected a file that ends in ",
                                          absl::StrJoin(kWeightsExtensions, ", ")));
}

absl::StatusOr<std::vector<SourceFile>> ObserveShards(const std::vector<std::string>& entries,
                                                      const std::string& folder) {
  std::vector<SourceFile> shards;
  for (const std::string& name : entries) {
    if (IsHidden(name) || !HasWeightsExtension(name)) continue;
    absl::StatusOr<SourceFile> shard = ObserveFile(absl::StrCat(folder, "/", name));
    if (!shard.ok()) return shard.status();
    shards.push_back(*std::move(shard));
  }
  return shards;
}

}  // namespace

absl::StatusOr<SourceFile> ObserveFile(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    const bool dangling = fs::is_symlink(fs::symlink_status(path, error));
    return absl::NotFoundError(absl::StrCat(
        Printable(path), dangling ? ": is a link that leads nowhere" : ": there is no such file"));
  }
  if (error) return ErrorOf(error, path);
  if (!fs::is_regular_file(status)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Printable(path), ": expected a regular file, got ",
                     fs::is_directory(status) ? "a folder" : "a device, a FIFO or a socket"));
  }
  absl::StatusOr<FileFingerprint> fingerprint = FingerprintOf(path);
  if (!fingerprint.ok()) return fingerprint.status();
  // Links of /proc lead to files that no resolved path names; the fingerprint is right even there.
  fs::path resolved = fs::canonical(path, error);
  if (error) resolved = path;
  return SourceFile{.path = path, .resolved_path = resolved.string(), .fingerprint = *fingerprint};
}

bool IsUnchanged(const ModelSource& source, const std::string& folder) {
  const auto same = [](const std::string& path, const std::optional<SourceFile>& before) {
    const absl::StatusOr<SourceFile> now = ObserveFile(path);
    if (!before.has_value()) return absl::IsNotFound(now.status());
    return now.ok() && *now == *before;
  };
  return same(absl::StrCat(folder, "/", kConfigName), source.config) &&
         (!source.weights.has_value() || same(source.weights->path, source.weights)) &&
         std::all_of(source.shards.begin(), source.shards.end(),
                     [&same](const SourceFile& shard) { return same(shard.path, shard); });
}

RepositoryScanner::RepositoryScanner(std::string repository, ConfigParser parse_config)
    : repository_(std::move(repository)), parse_config_(std::move(parse_config)) {}

absl::StatusOr<RepositorySnapshot> RepositoryScanner::Scan() {
  absl::StatusOr<std::vector<std::string>> entries = List(repository_);
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
    ModelObservation& model = snapshot.models[name] = Observe(name);
    snapshot.folders.insert(folder);
    for (const auto& file : {model.source.config, model.source.weights}) {
      if (!file.has_value()) continue;
      snapshot.folders.insert(fs::path(file->resolved_path).parent_path().string());
    }
    for (const SourceFile& shard : model.source.shards) {
      snapshot.folders.insert(fs::path(shard.resolved_path).parent_path().string());
    }
  }
  std::erase_if(configs_, [&snapshot](const auto& cached) {
    return snapshot.models.find(cached.first) == snapshot.models.end();
  });
  return snapshot;
}

ModelObservation RepositoryScanner::Observe(const std::string& model) {
  const std::string folder = FolderOf(model);
  ModelObservation seen;
  absl::StatusOr<std::vector<std::string>> entries = List(folder);
  if (!entries.ok()) {
    seen.status = entries.status();
    return seen;
  }

  seen.config = std::make_shared<ModelConfig>();
  absl::StatusOr<SourceFile> config_file = ObserveFile(absl::StrCat(folder, "/", kConfigName));
  if (config_file.ok()) {
    seen.source.config = *config_file;
    absl::StatusOr<std::shared_ptr<const ModelConfig>> config = ReadConfig(model, *config_file);
    seen.status = config.status();
    seen.config = config.ok() ? *config : nullptr;
  } else if (!absl::IsNotFound(config_file.status()) ||
             std::binary_search(entries->begin(), entries->end(), kConfigName)) {
    // Also a config.pbtxt that is a link to nowhere: the defaults may not be what was meant.
    seen.status = config_file.status();
    seen.config = nullptr;
  }
  if (seen.config == nullptr) return seen;

  absl::StatusOr<std::string> name = ChooseWeights(*entries, folder, *seen.config);
  if (!name.ok()) {
    seen.status = name.status();
    return seen;
  }
  absl::StatusOr<SourceFile> weights = ObserveFile(absl::StrCat(folder, "/", *name));
  seen.status = weights.status();
  if (!weights.ok()) return seen;
  if (IsIndex(*name)) {
    absl::StatusOr<std::vector<SourceFile>> shards = ObserveShards(*entries, folder);
    seen.status = shards.status();
    if (!shards.ok()) return seen;
    seen.source.shards = *std::move(shards);
  }
  seen.source.weights = *std::move(weights);
  return seen;
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
