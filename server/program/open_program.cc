#include "server/program/open_program.h"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/file.h"
#include "server/base/printable.h"
#include "server/checkpoint/archive/zip_archive.h"
#include "server/checkpoint/checkpoint.h"
#include "server/program/aot_package.h"
#include "server/program/exported_program.h"
#include "server/program/onnx_import.h"
#include "server/program/torchscript.h"

namespace sconce {
namespace {

using namespace std::string_view_literals;

constexpr size_t kStartBytes = 16;
constexpr int64_t kMaxDirectoryBytes = int64_t{64} << 20;

bool HasMember(const ZipArchive& archive, std::string_view folder, std::string_view ending) {
  const std::string start = absl::StrCat(archive.top_folder(), "/", std::string(folder));
  return std::any_of(archive.entries().begin(), archive.entries().end(),
                     [&](const ZipEntry& entry) {
                       return std::string_view(entry.name).starts_with(start) &&
                              std::string_view(entry.name).ends_with(ending);
                     });
}

// A zip that is damaged is no program: whoever reads it as a checkpoint says what is wrong with it.
ProgramKind KindOfZip(const File& file) {
  const absl::StatusOr<ZipArchive> archive = ZipArchive::Open(file, kMaxDirectoryBytes);
  if (!archive.ok()) return ProgramKind::kNone;
  if (archive->Find("archive_format") != nullptr) {
    if (HasMember(*archive, "data/aotinductor/", ".so")) return ProgramKind::kAotInductor;
    if (HasMember(*archive, "models/", ".json")) return ProgramKind::kExportedProgram;
    return ProgramKind::kNone;
  }
  return archive->Find("constants.pkl") != nullptr ? ProgramKind::kTorchScript : ProgramKind::kNone;
}

}  // namespace

absl::StatusOr<ProgramKind> ProbeProgram(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return ProgramKind::kNone;
  const absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  std::string start(static_cast<size_t>(std::min<int64_t>(file->size_bytes(), kStartBytes)), '\0');
  absl::Status read = file->ReadAt(0, {reinterpret_cast<std::byte*>(start.data()), start.size()});
  if (!read.ok()) return read;
  if (start.starts_with("PK\3\4"sv)) return KindOfZip(*file);
  if (start.starts_with("\x7f"
                        "ELF"sv))
    return ProgramKind::kPlugin;
  if (start.starts_with('\x08')) {
    // ONNX has no magic number: the first field of a ModelProto, and then what reads like one.
    const auto checkpoint = OpenCheckpoint(path);
    if (checkpoint.ok() && (*checkpoint)->format() == "ONNX"sv) return ProgramKind::kOnnx;
  }
  return ProgramKind::kNone;
}

absl::StatusOr<std::shared_ptr<const models::Architecture>> OpenProgram(
    const std::string& path, ProgramKind kind, const ProgramOptions& options) {
  switch (kind) {
    case ProgramKind::kExportedProgram:
      return OpenExportedProgram(path, options);
    case ProgramKind::kAotInductor:
      return OpenAotPackage(path, options);
    case ProgramKind::kTorchScript:
      return OpenTorchScript(path, options);
    case ProgramKind::kOnnx:
      return OpenOnnxProgram(path, options);
    case ProgramKind::kPlugin:  // which may offer several: OpenPlugin
    case ProgramKind::kNone:
      break;
  }
  // What else it is, or what is wrong with it, the reader of weights can say.
  const auto weights = OpenCheckpoint(path);
  std::string got;
  if (weights.ok()) {
    got = absl::StrCat("weights alone (", (*weights)->format(), ")");
  } else {
    const std::string message(weights.status().message());
    const size_t own = message.starts_with(Printable(path)) ? Printable(path).size() + 2 : 0;
    got = absl::StrCat("something else: ", message.substr(std::min(own, message.size())));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(Printable(path),
                   ": expected a program (an exported program, TorchScript, ONNX, an AOTInductor "
                   "package or a plugin), got ",
                   got));
}

}  // namespace sconce
