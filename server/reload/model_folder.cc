#include "server/reload/model_folder.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/printable.h"
#include "server/checkpoint/folder/known_names.h"

namespace sconce {
namespace {

namespace fs = std::filesystem;

constexpr ptrdiff_t kMaxGolden = 64;
// Files that hold weights, too, but are often beside them for other readers.
constexpr std::array<absl::string_view, 2> kProgramExtensions = {".pt2", ".onnx"};
constexpr std::array<absl::string_view, 2> kIndexEndings = {".safetensors.index.json",
                                                            ".bin.index.json"};
// Folders of more entries than this are no models; messages name a few of them only.
constexpr size_t kMaxEntries = 10'000;
constexpr size_t kMaxNamed = 5;
// Of a folder, on any file system.
constexpr size_t kMaxNameLength = 255;

bool IsIndex(absl::string_view name) {
  return std::any_of(kIndexEndings.begin(), kIndexEndings.end(), [name](absl::string_view ending) {
    return name.size() > ending.size() && absl::EndsWith(name, ending);
  });
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

bool IsFolder(const std::string& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

template <typename Extensions>
bool EndsWithAny(absl::string_view name, const Extensions& extensions) {
  const std::string lower = absl::AsciiStrToLower(name);
  return std::any_of(extensions.begin(), extensions.end(), [&lower](absl::string_view extension) {
    return lower.size() > extension.size() && absl::EndsWith(lower, extension);
  });
}

// "program.pt2" of "models/net/program.pt2".
std::string FileNameOf(const SourceFile& file) { return fs::path(file.path).filename().string(); }

struct Candidates {
  std::vector<std::string> files;
  std::vector<std::string> indexes;
};

Candidates FindCandidates(const std::vector<std::string>& entries, const std::string& folder,
                          const ModelConfig& config) {
  Candidates found;
  std::vector<std::string> programs;
  for (const std::string& name : entries) {
    if (IsHidden(name) || IsProgramName(name, config)) continue;
    if (IsFolder(absl::StrCat(folder, "/", name))) continue;
    if (EndsWithAny(name, kWeightsExtensions)) found.files.push_back(name);
    if (EndsWithAny(name, kProgramExtensions)) programs.push_back(name);
    if (IsIndex(name)) found.indexes.push_back(name);
  }
  if (found.files.empty() && found.indexes.empty()) found.files = std::move(programs);
  return found;
}

// The file name of the weights among the folder's entries.
absl::StatusOr<std::string> ChooseWeights(const std::vector<std::string>& entries,
                                          const std::string& folder, const ModelConfig& config) {
  const auto [files, indexes] = FindCandidates(entries, folder, config);
  if (!config.weights_file.empty()) {
    const std::string& wanted = config.weights_file;
    if (std::binary_search(entries.begin(), entries.end(), wanted)) return wanted;
    return absl::NotFoundError(absl::StrCat(
        kConfigFileName, " names the weights file '", Printable(wanted), "', which is not there",
        files.empty() ? "" : absl::StrCat("; the folder holds ", NameSome(files))));
  }
  if (std::string known = ChooseKnown(files, indexes); !known.empty()) return known;
  // Several files with an index are the parts of one checkpoint; so may a single one be.
  if (indexes.size() == 1) return indexes.front();
  if (files.size() == 1) return files.front();
  if (files.size() > 1) {
    return absl::FailedPreconditionError(absl::StrCat(
        "expected one weights file, got ", files.size(), ": ", NameSome(files), "; a line in ",
        kConfigFileName, " settles which one is served, e.g. weights: \"", Printable(files.front()),
        "\""));
  }
  return absl::NotFoundError(absl::StrCat("no weights file yet; expected a file that ends in ",
                                          absl::StrJoin(kWeightsExtensions, ", "), ", ",
                                          absl::StrJoin(kProgramExtensions, ", ")));
}

// Adds what lies beside the weights for Hugging Face's libraries.
absl::Status ObserveHuggingFace(const std::vector<std::string>& entries, const std::string& folder,
                                ModelSource* source) {
  if (!std::binary_search(entries.begin(), entries.end(), kHuggingFaceNames[0])) {
    return absl::OkStatus();
  }
  for (const absl::string_view name : kHuggingFaceNames) {
    absl::StatusOr<SourceFile> file = ObserveFile(absl::StrCat(folder, "/", name));
    if (absl::IsNotFound(file.status()) && name != kHuggingFaceNames[0]) continue;
    if (!file.ok()) return file.status();
    source->hugging_face.push_back(*std::move(file));
  }
  return absl::OkStatus();
}

absl::Status ObserveAll(const std::vector<std::string>& entries, const std::string& folder,
                        std::vector<SourceFile>* out) {
  for (const std::string& name : entries) {
    if (IsHidden(name) || !HasWeightsExtension(name)) continue;
    absl::StatusOr<SourceFile> file = ObserveFile(absl::StrCat(folder, "/", name));
    if (!file.ok()) return file.status();
    out->push_back(*std::move(file));
  }
  return absl::OkStatus();
}

}  // namespace

bool IsModelName(absl::string_view name) {
  return !name.empty() && name.size() <= kMaxNameLength && !IsHidden(name) &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' ||
                  c == '-';
         });
}

bool IsHidden(absl::string_view name) { return absl::StartsWith(name, "."); }

bool HasWeightsExtension(absl::string_view name) {
  return EndsWithAny(name, kWeightsExtensions) || EndsWithAny(name, kProgramExtensions);
}

bool IsProgramName(const std::string& name, const ModelConfig& config) {
  return name == config.program_file ||
         (config.program_file.empty() &&
          std::find(kProgramNames.begin(), kProgramNames.end(), name) != kProgramNames.end());
}

absl::StatusOr<std::vector<std::string>> ListFolder(const std::string& folder) {
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
  if (error) return FilesystemStatus(error, folder);
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

absl::Status ObserveProgram(const std::vector<std::string>& entries, const std::string& folder,
                            const ModelConfig& config, ModelSource* source) {
  std::vector<std::string> found;
  for (const std::string& name : entries) {
    if (IsProgramName(name, config)) found.push_back(name);
  }
  if (found.empty()) return absl::OkStatus();
  if (found.size() > 1) {
    return absl::FailedPreconditionError(
        absl::StrCat("expected one program, got ", found.size(), ": ", NameSome(found),
                     "; a line in ", kConfigFileName, " settles which one runs, e.g. program: \"",
                     Printable(found.front()), "\""));
  }
  absl::StatusOr<SourceFile> program = ObserveFile(absl::StrCat(folder, "/", found.front()));
  if (!program.ok()) return program.status();
  source->program = *std::move(program);
  return absl::OkStatus();
}

absl::Status ObserveWeights(const std::vector<std::string>& entries, const std::string& folder,
                            const ModelConfig& config, ModelSource* source) {
  if (absl::Status program = ObserveProgram(entries, folder, config, source); !program.ok()) {
    return program;
  }
  if (!config.program_file.empty() && !source->program.has_value()) {
    return absl::NotFoundError(absl::StrCat(kConfigFileName, " names the program '",
                                            Printable(config.program_file),
                                            "', which is not there"));
  }
  absl::StatusOr<std::string> name = ChooseWeights(entries, folder, config);
  const bool alone = absl::IsNotFound(name.status()) && config.weights_file.empty();
  if (alone && source->program.has_value() &&
      !absl::EndsWith(FileNameOf(*source->program), ".so")) {
    source->weights = source->program;
    return absl::OkStatus();
  }
  if (!name.ok()) return name.status();
  absl::StatusOr<SourceFile> weights = ObserveFile(absl::StrCat(folder, "/", *name));
  if (!weights.ok()) return weights.status();
  std::vector<SourceFile> shards;
  if (IsIndex(*name)) {
    const absl::Status status = ObserveAll(entries, folder, &shards);
    if (!status.ok()) return status;
  }
  source->weights = *std::move(weights);
  source->shards = std::move(shards);
  return ObserveHuggingFace(entries, folder, source);
}

absl::Status ObserveGolden(const std::string& folder, ModelSource* source) {
  const std::string golden = absl::StrCat(folder, "/", kGoldenFolder);
  absl::StatusOr<std::vector<std::string>> entries = ListFolder(golden);
  if (!entries.ok()) return entries.status();
  const auto samples = std::count_if(entries->begin(), entries->end(), [](const auto& name) {
    return !IsHidden(name) && HasWeightsExtension(name);
  });
  if (samples > kMaxGolden) {
    return absl::FailedPreconditionError(absl::StrCat(
        "folder '", kGoldenFolder, "': expected at most ", kMaxGolden, " samples, got ", samples));
  }
  return ObserveAll(*entries, golden, &source->golden);
}

NumberedFolders FindNumberedFolders(const std::vector<std::string>& entries,
                                    const std::string& folder) {
  NumberedFolders found;
  for (const std::string& name : entries) {
    const bool is_number = std::all_of(name.begin(), name.end(), [](char c) {
      return absl::ascii_isdigit(static_cast<unsigned char>(c));
    });
    if (!is_number) continue;
    std::error_code error;
    const std::string path = absl::StrCat(folder, "/", name);
    const fs::file_status status = fs::status(path, error);
    // A link that leads nowhere yet is a folder that is mounted late; what is gone by now is none.
    const bool late = status.type() == fs::file_type::not_found;
    if (late && !fs::is_symlink(fs::symlink_status(path, error))) continue;
    int64_t number = 0;
    if (!late && fs::exists(status) && !fs::is_directory(status)) {
      found.ignored[name] = "a version's number is the name of a folder, and this is a file";
    } else if (name.front() == '0' || !absl::SimpleAtoi(name, &number) ||
               number > kMaxVersionNumber) {
      found.ignored[name] = absl::StrCat("a version's number is one from 1 to ", kMaxVersionNumber,
                                         " without zeros before it");
    } else {
      found.names[number] = name;
    }
  }
  return found;
}

std::vector<std::string> FindWeightsFiles(const std::vector<std::string>& entries,
                                          const std::string& folder, const ModelConfig& config) {
  auto [files, indexes] = FindCandidates(entries, folder, config);
  files.insert(files.end(), indexes.begin(), indexes.end());
  const std::string& named = config.weights_file;
  if (std::binary_search(entries.begin(), entries.end(), named) &&
      std::find(files.begin(), files.end(), named) == files.end() &&
      !IsFolder(absl::StrCat(folder, "/", named))) {
    files.push_back(named);
  }
  return files;
}

}  // namespace sconce
