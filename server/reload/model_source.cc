#include "server/reload/model_source.h"

#include <algorithm>
#include <cstddef>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/base/printable.h"
#include "server/base/sha256.h"

namespace sconce {

namespace fs = std::filesystem;

absl::Status FilesystemStatus(const std::error_code& error, const std::string& path) {
  const std::string message = absl::StrCat(Printable(path), ": cannot be read: ", error.message());
  if (error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory) {
    return absl::NotFoundError(message);
  }
  if (error == std::errc::permission_denied) return absl::PermissionDeniedError(message);
  return absl::UnavailableError(message);
}

absl::StatusOr<SourceFile> ObserveFile(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    const bool dangling = fs::is_symlink(fs::symlink_status(path, error));
    return absl::NotFoundError(absl::StrCat(
        Printable(path), dangling ? ": is a link that leads nowhere" : ": there is no such file"));
  }
  if (error) return FilesystemStatus(error, path);
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
  bool unchanged =
      source.config.has_value() ||
      absl::IsNotFound(ObserveFile(absl::StrCat(folder, "/", kConfigFileName)).status());
  ForEachFile(source, [&unchanged](const char*, const SourceFile& before) {
    if (!unchanged) return;
    const absl::StatusOr<SourceFile> now = ObserveFile(before.path);
    unchanged = now.ok() && *now == before;
  });
  return unchanged;
}

std::string FingerprintText(const ModelSource& source) {
  Sha256 hash;
  ForEachFile(source, [&hash](absl::string_view role, const SourceFile& file) {
    const FileFingerprint& print = file.fingerprint;
    // No path holds a NUL, so that no two sources give the same text.
    const std::string text =
        absl::StrCat(role, " ", file.path, absl::string_view("\0", 1), file.resolved_path,
                     absl::string_view("\0", 1), print.device, " ", print.inode, " ",
                     print.size_bytes, " ", print.mtime_ns, " ", print.ctime_ns, "\n");
    hash.Update(absl::MakeConstSpan(reinterpret_cast<const std::byte*>(text.data()), text.size()));
  });
  return ToHex(hash.Finish());
}

}  // namespace sconce
