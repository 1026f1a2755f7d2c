#include "server/tools/served_model.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/catalog.h"
#include "server/base/about_file.h"
#include "server/loader/loader_parts.h"
#include "server/loader/weights_structure.h"
#include "server/reload/config_file.h"
#include "server/reload/model_folder.h"
#include "server/reload/version_loader.h"

namespace sconce::tools {
namespace {

namespace fs = std::filesystem;

// The files that the newest version in the folder is made from.
absl::StatusOr<ModelSource> FilesIn(const std::string& folder,
                                    const std::vector<std::string>& entries,
                                    const NumberedFolders& numbered, const ModelConfig& config) {
  ModelSource source;
  if (numbered.names.empty()) {
    const absl::Status seen = ObserveWeights(entries, folder, config, &source);
    if (!seen.ok()) return AboutFile(folder, seen);
    return source;
  }
  if (absl::Status seen = ObserveProgram(entries, folder, config, &source); !seen.ok()) {
    return AboutFile(folder, seen);
  }
  const std::string newest = absl::StrCat(folder, "/", numbered.names.rbegin()->second);
  const auto files = ListFolder(newest);
  if (!files.ok()) return files.status();
  const absl::Status seen = ObserveWeights(*files, newest, config, &source);
  if (!seen.ok()) return AboutFile(newest, seen);
  return source;
}

}  // namespace

absl::StatusOr<ServedModel> OpenServed(const std::string& path, bool allow_native_code) {
  const auto open_alone = [&]() -> absl::StatusOr<ServedModel> {
    auto model = OpenModel(path, {.program = {.allow_native_code = allow_native_code}});
    if (!model.ok()) return model.status();
    return ServedModel{*std::move(model)};
  };
  // Machine code then compares inputs with what it was compiled for, before it reads them.
  if (allow_native_code) ::setenv("AOTI_RUNTIME_CHECK_INPUTS", "1", /*overwrite=*/1);
  std::error_code error;
  if (!fs::is_directory(path, error)) return open_alone();
  const auto entries = ListFolder(path);
  if (!entries.ok()) return entries.status();
  const bool configured = std::binary_search(entries->begin(), entries->end(), kConfigFileName);
  const NumberedFolders numbered = FindNumberedFolders(*entries, path);
  if (!configured && numbered.names.empty()) return open_alone();

  LoadRequest request;
  // The model's name is its folder's, however that is written.
  const fs::path folder = fs::canonical(path, error);
  if (error) return FilesystemStatus(error, path);
  request.model = folder.filename().string();
  if (configured) {
    auto config = ReadModelConfig((folder / kConfigFileName).string());
    if (!config.ok()) return AboutFile(path, config.status());
    request.config = *std::move(config);
  }
  const auto source = FilesIn(path, *entries, numbered, request.config);
  if (!source.ok()) return source.status();
  request.weights_path = source->weights->path;
  if (source->program.has_value()) request.program_path = source->program->path;
  if (!source->hugging_face.empty()) {
    request.hugging_face_path = source->hugging_face.front().path;
  }
  LoaderParts parts;
  parts.catalog = models::Catalog();
  parts.allow_native_code = allow_native_code;
  auto structure = CheckStructure(parts, request);
  if (!structure.ok()) return structure.status();
  return ServedModel{{std::move(structure->checkpoint), std::move(structure->detection)},
                     request.config.strict};
}

}  // namespace sconce::tools
