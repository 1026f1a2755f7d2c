// A folder as Hugging Face's libraries write it: one file of weights or an index of several, under
// names that they agree on, and beside it a config.json that tells what the model is.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "nlohmann/json.hpp"
#include "server/base/printable.h"
#include "server/checkpoint/containers.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/folder/known_names.h"
#include "server/checkpoint/folder/merged_checkpoint.h"
#include "server/checkpoint/folder/sibling_files.h"

namespace sconce {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxEntries = 10'000;
constexpr size_t kMaxFilesNamed = 8;
constexpr const char* kConfigName = "config.json";
constexpr int64_t kMaxConfigBytes = int64_t{1} << 20;
constexpr size_t kMaxConfigEntries = 64;

// Where none of the known names is there, the only file with one of these endings is meant.
constexpr std::array<std::string_view, 9> kEndings = {".safetensors.index.json",
                                                      ".bin.index.json",
                                                      ".safetensors",
                                                      ".bin",
                                                      ".pth",
                                                      ".pt",
                                                      ".ckpt",
                                                      ".pt2",
                                                      ".onnx"};

bool IsProgram(const std::string& name) {
  return std::find(kProgramNames.begin(), kProgramNames.end(), name) != kProgramNames.end();
}

// Sorted.
absl::StatusOr<std::vector<std::string>> ListFiles(const std::string& folder) {
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  std::vector<std::string> names;
  while (!error && entry != fs::directory_iterator()) {
    std::error_code ignored;
    if (!entry->is_directory(ignored)) names.push_back(entry->path().filename().string());
    if (names.size() > kMaxEntries) {
      return Refused("expected a checkpoint's folder of at most ", kMaxEntries, " files, got more");
    }
    entry.increment(error);
  }
  if (error == std::errc::permission_denied) {
    return absl::PermissionDeniedError(absl::StrCat("cannot be listed: ", error.message()));
  }
  if (error) return absl::UnavailableError(absl::StrCat("cannot be listed: ", error.message()));
  std::sort(names.begin(), names.end());
  return names;
}

std::string NameSome(const std::vector<std::string>& names) {
  if (names.empty()) return "no file";
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kMaxFilesNamed); ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ", ", Printable(names[i]));
  }
  if (names.size() > kMaxFilesNamed)
    absl::StrAppend(&text, " and ", names.size() - kMaxFilesNamed, " more");
  return text;
}

constexpr std::string_view kDistributedName = ".metadata";

struct Choice {
  std::string name;
  std::vector<std::string> passed_over;
};

absl::StatusOr<Choice> ChooseFile(const std::vector<std::string>& names) {
  Choice choice;
  if (std::binary_search(names.begin(), names.end(), kDistributedName)) {
    for (const std::string_view known : kKnownWeightsNames) {
      if (!std::binary_search(names.begin(), names.end(), known)) continue;
      return Refused("expected one checkpoint, got a distributed one (", kDistributedName.data(),
                     ") and ", known.data(), "; give the path of the one that is meant");
    }
    return Choice{.name = std::string(kDistributedName), .passed_over = {}};
  }
  for (const std::string_view known : kKnownWeightsNames) {
    if (!std::binary_search(names.begin(), names.end(), known)) continue;
    if (choice.name.empty()) {
      choice.name = std::string(known);
    } else {
      choice.passed_over.emplace_back(known);
    }
  }
  if (!choice.name.empty()) return choice;
  for (const std::string_view ending : kEndings) {
    std::vector<std::string> fitting;
    for (const std::string& name : names) {
      if (name.ends_with(ending) && name.front() != '.' && !IsProgram(name)) {
        fitting.push_back(name);
      }
    }
    if (fitting.size() == 1) return Choice{.name = fitting.front(), .passed_over = {}};
    if (fitting.size() > 1) {
      return Refused("expected one checkpoint, got ", fitting.size(), " files that end in ",
                     std::string(ending), ": ", NameSome(fitting),
                     "; give the path of one of them");
    }
  }
  // Without other weights a program has its own.
  for (const std::string& name : names) {
    if (IsProgram(name) && !name.ends_with(".so")) return Choice{.name = name, .passed_over = {}};
  }
  return Refused(
      "expected a folder with model.safetensors, pytorch_model.bin or an index of either, or a "
      "distributed checkpoint's .metadata, got ",
      NameSome(names));
}

// Collects what stands at the top of config.json, and the strings in its lists.
class ConfigEvents final : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<MetadataEntry> Take() { return std::move(entries_); }

  bool null() override { return true; }
  bool boolean(bool value) override { return Add(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return Add(absl::StrCat(value)); }
  bool number_unsigned(number_unsigned_t value) override { return Add(absl::StrCat(value)); }
  bool number_float(number_float_t, const string_t& text) override {
    return Add(Printable(text, 40));
  }
  bool string(string_t& value) override { return Add(Printable(value)); }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return ++depth_ <= kMaxDepth; }
  bool start_array(size_t) override { return ++depth_ <= kMaxDepth; }
  bool end_object() override { return --depth_ >= 0; }
  bool end_array() override { return --depth_ >= 0; }
  bool key(string_t& name) override {
    if (depth_ == 1) key_ = name;
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception&) override {
    return false;
  }

 private:
  static constexpr int kMaxDepth = 32;

  bool Add(std::string text) {
    const bool is_told = depth_ == 1 || (depth_ == 2 && key_ == "architectures");
    if (is_told && entries_.size() < kMaxConfigEntries) {
      entries_.push_back({absl::StrCat("config.", Printable(key_)), std::move(text)});
    }
    return true;
  }

  std::vector<MetadataEntry> entries_;
  std::string key_;
  int depth_ = 0;
};

// What config.json says. It is a hint: a broken one is no reason to fail.
std::vector<MetadataEntry> ReadConfig(const SiblingFiles& siblings) {
  const auto broken = [](std::string_view why) {
    return std::vector<MetadataEntry>{{kConfigName, absl::StrCat("not read: ", std::string(why))}};
  };
  const absl::StatusOr<File> file = siblings.Open(kConfigName);
  if (!file.ok()) return broken("it cannot be opened");
  if (file->size_bytes() > kMaxConfigBytes) return broken("it is too large");
  std::string json(static_cast<size_t>(file->size_bytes()), '\0');
  const auto out = absl::MakeSpan(reinterpret_cast<std::byte*>(json.data()), json.size());
  if (!ReadFrom(*file, 0, out).ok()) return broken("it cannot be read");
  ConfigEvents events;
  if (!nlohmann::json::sax_parse(json, &events)) return broken("it is no valid JSON");
  return events.Take();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenFolder(const std::string& path,
                                                       const CheckpointOptions& options) {
  const absl::StatusOr<std::vector<std::string>> names = ListFiles(path);
  if (!names.ok()) return names.status();
  absl::StatusOr<Choice> choice = ChooseFile(*names);
  if (!choice.ok()) return choice.status();
  const absl::StatusOr<SiblingFiles> siblings =
      SiblingFiles::Of(absl::StrCat(path, "/", choice->name), SiblingFiles::Names::kInFolder);
  if (!siblings.ok()) return siblings.status();

  absl::StatusOr<File> file = siblings->Open(choice->name);
  if (!file.ok()) return file.status();
  std::vector<MetadataEntry> metadata = {{"file", Printable(choice->name)}};
  if (!choice->passed_over.empty()) {
    metadata.push_back({"files not read", NameSome(choice->passed_over)});
  }
  if (std::binary_search(names->begin(), names->end(), kConfigName)) {
    std::vector<MetadataEntry> config = ReadConfig(*siblings);
    metadata.insert(metadata.end(), config.begin(), config.end());
  }
  const bool is_index = choice->name.ends_with(".index.json");
  absl::StatusOr<std::unique_ptr<Checkpoint>> weights =
      choice->name == kDistributedName ? OpenDistributed(*std::move(file), options)
      : is_index                       ? OpenSharded(*std::move(file), options)
                                       : OpenSingleFile(*std::move(file), options);
  if (!weights.ok()) return InContext(Printable(choice->name), weights.status());
  std::string format = (*weights)->format();
  std::vector<std::unique_ptr<Checkpoint>> parts;
  parts.push_back(*std::move(weights));
  return MergedCheckpoint::Make(std::move(format), path, {}, std::move(parts), std::move(metadata));
}

}  // namespace sconce
