#include "server/program/choose_architecture.h"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string_view>
#include <system_error>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "models/net.h"
#include "models/renamed_architecture.h"
#include "models/text/hugging_face.h"
#include "server/base/about_file.h"
#include "server/base/file.h"
#include "server/base/printable.h"
#include "server/checkpoint/folder/known_names.h"
#include "server/program/open_program.h"
#include "server/program/plugin.h"
#include "server/weights/key_normalisation.h"

namespace sconce {
namespace {

constexpr char kTakenForWeights[] =
    " (a TorchScript archive that is taken for weights: TorchScript does not say its inputs; "
    "declare inputs and outputs in config.pbtxt to have the program itself run)";

std::string NameOfFile(const std::string& path) {
  return Printable(std::filesystem::path(path).filename().string());
}

const char* KindName(ProgramKind kind) {
  switch (kind) {
    case ProgramKind::kExportedProgram:
      return "exported program";
    case ProgramKind::kAotInductor:
      return "AOTInductor package";
    case ProgramKind::kTorchScript:
      return "TorchScript";
    case ProgramKind::kOnnx:
      return "ONNX graph";
    case ProgramKind::kPlugin:
      return "plugin";
    case ProgramKind::kNone:
      break;
  }
  return "program";
}

using Names = std::unordered_set<std::string>;

absl::StatusOr<Names> NamesOf(const models::Architecture& program) {
  const auto net = program.Create({});
  if (!net.ok()) return net.status();
  Names names;
  for (models::NamedTensor& tensor : (*net)->State()) names.insert(std::move(tensor.name));
  return names;
}

// A program whose weights' names all begin as if a wrapper had put that there, such as one exported
// from a module that holds the network as its `model`: names that were taken for a wrapper's are
// given back what was stripped.
std::shared_ptr<const models::Architecture> WithNamesGivenBack(
    std::shared_ptr<const models::Architecture> program, const Names& names) {
  std::string prefix = WrapperPrefix(std::vector<std::string>(names.begin(), names.end()));
  if (prefix.empty()) return program;
  return models::Renamed(std::move(program),
                         [prefix = std::move(prefix), names](const std::string& saved) {
                           std::string whole = prefix + saved;
                           return names.contains(whole) ? whole : saved;
                         });
}

// What the compiler has written into machine code, weights beside it cannot change.
absl::Status CheckNothingIsInlined(absl::Span<const models::NamedShape> state,
                                   const models::Architecture& program, const Names& names,
                                   const std::string& path) {
  for (const models::NamedShape& tensor : state) {
    const std::string name = program.NameOf(tensor.name);
    if (name.empty() || names.contains(name)) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        Printable(path), ": its machine code does not read ", models::Quoted(tensor.name),
        " from memory: small weights are compiled into it, and those in the file would have no "
        "effect; compile it with inductor_configs={\"always_keep_tensor_constants\": True}"));
  }
  return absl::OkStatus();
}

// One of what a plugin offers: the one that is configured, the only one there is, or the one that
// the weights fit. None where the plugin has nothing of the configured name.
absl::StatusOr<std::optional<models::Detection>> FromPlugin(
    absl::Span<const models::NamedShape> state, const ArchitectureSources& sources,
    const std::string& path) {
  const auto offered = OpenPlugin(path, sources.program);
  if (!offered.ok()) return offered.status();
  std::vector<const models::Architecture*> catalog;
  for (const auto& architecture : *offered) catalog.push_back(architecture.get());
  models::Configured configured = sources.configured;
  if (configured.architecture.empty() && catalog.size() == 1) {
    configured.architecture = std::string(catalog.front()->name());
  }
  const auto named = std::find_if(catalog.begin(), catalog.end(), [&](const auto* architecture) {
    return architecture->name() == configured.architecture;
  });
  if (!configured.architecture.empty() && named == catalog.end()) return std::nullopt;
  auto detection = models::Detect(state, configured, catalog);
  if (!detection.ok()) return AboutFile(path, detection.status());
  // What the plugin offers lives as long as somebody holds it.
  using Owner = std::pair<std::vector<std::shared_ptr<const models::Architecture>>,
                          std::shared_ptr<const models::Architecture>>;
  const models::Architecture* const found = detection->architecture.get();
  detection->architecture = {std::make_shared<Owner>(*offered, std::move(detection->architecture)),
                             found};
  detection->why = absl::StrCat("plugin ", NameOfFile(path), ", weights ",
                                NameOfFile(sources.weights_path), ": ", detection->why);
  return *std::move(detection);
}

absl::StatusOr<models::Detection> FromProgram(absl::Span<const models::NamedShape> state,
                                              const ArchitectureSources& sources,
                                              const std::string& path, ProgramKind kind) {
  auto program = OpenProgram(path, kind, sources.program);
  if (!program.ok()) return program.status();
  const absl::StatusOr<Names> names = NamesOf(**program);
  if (!names.ok()) return names.status();
  models::Detection detection;
  detection.architecture = WithNamesGivenBack(*std::move(program), *names);
  if (kind == ProgramKind::kAotInductor) {
    absl::Status swappable = CheckNothingIsInlined(state, *detection.architecture, *names, path);
    if (!swappable.ok()) return swappable;
  }
  detection.why = absl::StrCat(KindName(kind), " ", NameOfFile(path),
                               path == sources.weights_path
                                   ? " with its own weights"
                                   : absl::StrCat(", weights ", NameOfFile(sources.weights_path)));
  return detection;
}

absl::StatusOr<models::Detection> FromCatalog(
    absl::Span<const models::NamedShape> state, const ArchitectureSources& sources,
    const models::Configured& configured, absl::Span<const models::Architecture* const> catalog) {
  auto detection = models::Detect(state, configured, catalog);
  if (!detection.ok()) return AboutFile(sources.weights_path, detection.status());
  return detection;
}

// All of a short text file; empty where there is none.
absl::StatusOr<std::string> ReadText(const std::filesystem::path& path) {
  const absl::StatusOr<File> file = File::Open(path.string());
  if (absl::IsNotFound(file.status())) return "";
  if (!file.ok()) return file.status();
  if (file->size_bytes() > static_cast<int64_t>(models::kMaxHuggingFaceBytes)) {
    return absl::InvalidArgumentError(absl::StrCat(Printable(path.string()), ": expected at most ",
                                                   models::kMaxHuggingFaceBytes, " bytes, got ",
                                                   file->size_bytes()));
  }
  std::string text(static_cast<size_t>(file->size_bytes()), '\0');
  absl::Status read = file->ReadAt(0, {reinterpret_cast<std::byte*>(text.data()), text.size()});
  if (!read.ok()) return read;
  return text;
}

// What the folder of `config_path` says; none where it says nothing of a network known here.
absl::StatusOr<std::optional<models::Configured>> FromFolder(const std::string& config_path) {
  const std::filesystem::path folder = std::filesystem::path(config_path).parent_path();
  models::HuggingFaceFolder texts;
  std::string* const places[] = {&texts.config, &texts.modules, &texts.pooling};
  for (size_t i = 0; i < kHuggingFaceNames.size(); ++i) {
    absl::StatusOr<std::string> text = ReadText(folder / kHuggingFaceNames[i]);
    if (!text.ok()) return text.status();
    *places[i] = *std::move(text);
  }
  auto configured = models::FromHuggingFace(texts);
  if (!configured.ok()) return AboutFile(config_path, configured.status());
  return configured;
}

absl::StatusOr<models::Detection> FromWeights(
    absl::Span<const models::NamedShape> state, const ArchitectureSources& sources,
    absl::Span<const models::Architecture* const> catalog) {
  if (!sources.hugging_face_path.empty() && sources.configured.architecture.empty() &&
      sources.configured.parameters.empty()) {
    const auto configured = FromFolder(sources.hugging_face_path);
    if (!configured.ok()) return configured.status();
    if (configured->has_value()) {
      auto detection = FromCatalog(state, sources, **configured, catalog);
      if (detection.ok()) absl::StrAppend(&detection->why, " in config.json");
      return detection;
    }
  }
  return FromCatalog(state, sources, sources.configured, catalog);
}

}  // namespace

ArchitectureSources SourcesBeside(const Checkpoint& weights) {
  namespace fs = std::filesystem;
  std::error_code error;
  ArchitectureSources sources{.weights_path = weights.path()};
  if (fs::is_directory(sources.weights_path, error) && !weights.files().empty()) {
    sources.weights_path = weights.files().front().path;
  }
  const fs::path folder = fs::path(sources.weights_path).parent_path();
  for (const std::string_view name : kProgramNames) {
    if (!fs::is_regular_file(folder / name, error)) continue;
    sources.program_path = (folder / name).string();
    break;
  }
  if (fs::is_regular_file(folder / kHuggingFaceNames[0], error)) {
    sources.hugging_face_path = (folder / kHuggingFaceNames[0]).string();
  }
  return sources;
}

absl::StatusOr<models::Detection> ChooseArchitecture(
    absl::Span<const models::NamedShape> state, const ArchitectureSources& sources,
    absl::Span<const models::Architecture* const> catalog) {
  if (sources.declared != nullptr) {
    models::Detection detection;
    detection.architecture = sources.declared;
    detection.why = "the layers that the configuration declares";
    return detection;
  }
  const bool apart = !sources.program_path.empty() && sources.program_path != sources.weights_path;
  const std::string& program = apart ? sources.program_path : sources.weights_path;
  const absl::StatusOr<ProgramKind> kind = ProbeProgram(program);
  if (!kind.ok()) return kind.status();
  if (*kind == ProgramKind::kPlugin) {
    auto detection = FromPlugin(state, sources, program);
    if (!detection.ok()) return detection.status();
    if (detection->has_value()) return **std::move(detection);
  }
  // A parameter without a name is Detect's to refuse.
  if (!sources.configured.architecture.empty() || !sources.configured.parameters.empty() ||
      (!apart && *kind == ProgramKind::kNone)) {
    return FromWeights(state, sources, catalog);
  }
  if (*kind == ProgramKind::kTorchScript && sources.program_path.empty() &&
      sources.program.declared.inputs.empty()) {
    auto detection = FromWeights(state, sources, catalog);
    if (detection.ok()) {
      absl::StrAppend(&detection->why, kTakenForWeights);
      return detection;
    }
  }
  return FromProgram(state, sources, program, *kind);
}

}  // namespace sconce
