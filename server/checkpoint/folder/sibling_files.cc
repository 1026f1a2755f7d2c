#include "server/checkpoint/folder/sibling_files.h"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/checkpoint/error_context.h"

namespace sconce {
namespace {

namespace fs = std::filesystem;

absl::Status CheckName(std::string_view name, SiblingFiles::Names names) {
  const std::string quoted = absl::StrCat("'", Printable(name), "'");
  if (name.empty()) return Refused("expected a file's name, got an empty one");
  if (name.find('\0') != std::string_view::npos || name.find('\\') != std::string_view::npos) {
    return Refused("expected a file's name without NUL and backslashes, got ", quoted);
  }
  if (name.front() == '/') return Refused("expected a relative path, got ", quoted);
  if (names == SiblingFiles::Names::kInFolder && name.find('/') != std::string_view::npos) {
    return Refused("expected a file of the same folder, got ", quoted);
  }
  for (size_t start = 0; start <= name.size();) {
    const size_t slash = std::min(name.find('/', start), name.size());
    const std::string_view part = name.substr(start, slash - start);
    if (part.empty() || part == "..") {
      return Refused("expected a path that stays in the folder, got ", quoted);
    }
    start = slash + 1;
  }
  return absl::OkStatus();
}

bool LiesIn(std::string_view path, std::string_view folder) {
  if (folder == "/") return true;
  return path.size() > folder.size() && path.starts_with(folder) && path[folder.size()] == '/';
}

absl::Status CannotResolve(const std::string& path, const std::error_code& error) {
  const std::string message = absl::StrCat(Printable(path), ": cannot be found: ", error.message());
  if (error == std::errc::permission_denied) return absl::PermissionDeniedError(message);
  if (error == std::errc::too_many_symbolic_link_levels) {
    return absl::InvalidArgumentError(message);
  }
  return absl::NotFoundError(message);
}

}  // namespace

SiblingFiles::SiblingFiles(std::string folder, std::vector<std::string> resolved_folders,
                           Names names)
    : folder_(std::move(folder)), resolved_folders_(std::move(resolved_folders)), names_(names) {}

absl::StatusOr<SiblingFiles> SiblingFiles::Of(const std::string& path, Names names) {
  const fs::path parent = fs::path(path).parent_path();
  std::string folder = parent.empty() ? std::string(".") : parent.string();
  std::error_code error;
  const fs::path resolved_folder = fs::canonical(folder, error);
  if (error) return CannotResolve(folder, error);
  const fs::path resolved = fs::canonical(path, error);
  if (error) return CannotResolve(path, error);
  return SiblingFiles(std::move(folder),
                      {resolved_folder.string(), resolved.parent_path().string()}, names);
}

absl::StatusOr<File> SiblingFiles::Open(std::string_view name) const {
  if (absl::Status good = CheckName(name, names_); !good.ok()) return good;
  const std::string path = absl::StrCat(folder_, "/", std::string(name));
  std::error_code error;
  const std::string resolved = fs::canonical(path, error).string();
  if (error) return CannotResolve(path, error);
  const bool stays =
      std::any_of(resolved_folders_.begin(), resolved_folders_.end(),
                  [&](const std::string& folder) { return LiesIn(resolved, folder); });
  if (!stays) {
    return Refused(Printable(path), ": expected a file that stays in its folder, got a link to ",
                   Printable(resolved));
  }
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file;
  // What a link leads to may have been exchanged since it was looked at.
  const absl::StatusOr<FileFingerprint> checked = FingerprintOf(resolved);
  if (!checked.ok()) return checked.status();
  if (checked->device != file->fingerprint().device ||
      checked->inode != file->fingerprint().inode) {
    return absl::AbortedError(
        absl::StrCat(Printable(path), ": the file was exchanged while it was opened"));
  }
  return file;
}

}  // namespace sconce
