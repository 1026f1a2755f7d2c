#include "server/checkpoint/data/manifest.h"

#include <algorithm>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/file.h"
#include "server/base/printable.h"
#include "server/checkpoint/error_context.h"

namespace sconce {
namespace {

constexpr int64_t kMaxManifestBytes = int64_t{1} << 20;
constexpr size_t kHexDigits = 2 * std::tuple_size_v<Sha256Digest>;

std::optional<uint8_t> HexDigit(char c) {
  if (c >= '0' && c <= '9') return static_cast<uint8_t>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<uint8_t>(c - 'a' + 10);
  if (c >= 'A' && c <= 'F') return static_cast<uint8_t>(c - 'A' + 10);
  return std::nullopt;
}

std::optional<Sha256Digest> ParseDigest(std::string_view hex) {
  Sha256Digest digest{};
  for (size_t i = 0; i < kHexDigits; ++i) {
    const std::optional<uint8_t> digit = HexDigit(hex[i]);
    if (!digit.has_value()) return std::nullopt;
    digest[i / 2] = static_cast<uint8_t>(digest[i / 2] << 4 | *digit);
  }
  return digest;
}

std::string_view WithoutFolders(std::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

}  // namespace

absl::StatusOr<Sha256Digest> DigestInManifest(std::string_view manifest, std::string_view name) {
  std::optional<Sha256Digest> found;
  for (int64_t number = 1; !manifest.empty(); ++number) {
    std::string_view line = manifest.substr(0, manifest.find('\n'));
    manifest.remove_prefix(std::min(manifest.size(), line.size() + 1));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    std::optional<Sha256Digest> digest;
    if (line.size() > kHexDigits + 2 && line[kHexDigits] == ' ' &&
        (line[kHexDigits + 1] == ' ' || line[kHexDigits + 1] == '*')) {
      digest = ParseDigest(line);
    }
    if (!digest.has_value()) {
      return Refused("line ", number,
                     ": expected 64 hexadecimal digits, two spaces and a name, got '",
                     Printable(line.substr(0, kHexDigits + 16)), "'");
    }
    if (WithoutFolders(line.substr(kHexDigits + 2)) != name) continue;
    if (found.has_value()) {
      return Refused("line ", number, ": expected '", Printable(name), "' once, got it again");
    }
    found = digest;
  }
  if (!found.has_value()) return Refused("expected a line for '", Printable(name), "', got none");
  return *found;
}

absl::StatusOr<Sha256Digest> ReadManifestOf(const std::string& path) {
  const std::string manifest_path = path + ".sha256";
  const absl::StatusOr<File> file = File::Open(manifest_path);
  if (absl::IsNotFound(file.status())) {
    return absl::FailedPreconditionError(
        absl::StrCat(Printable(path), ": expected its SHA-256 in '", Printable(manifest_path),
                     "', got no such file"));
  }
  if (!file.ok()) return file.status();
  const std::string where = Printable(manifest_path);
  if (file->size_bytes() > kMaxManifestBytes) {
    return InContext(
        where, Refused("expected at most ", kMaxManifestBytes, " bytes, got ", file->size_bytes()));
  }
  std::string text(static_cast<size_t>(file->size_bytes()), '\0');
  const absl::Status read =
      file->ReadAt(0, {reinterpret_cast<std::byte*>(text.data()), text.size()});
  if (!read.ok()) return read;
  absl::StatusOr<Sha256Digest> digest = DigestInManifest(text, WithoutFolders(path));
  if (!digest.ok()) return InContext(where, digest.status());
  return digest;
}

absl::Status CheckDigest(const std::string& path, const Sha256Digest& in_manifest,
                         const Sha256Digest& of_file) {
  if (of_file == in_manifest) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      Printable(path), ": expected the SHA-256 of the manifest beside it, ", ToHex(in_manifest),
      ", got ", ToHex(of_file), ": the file is damaged or another one"));
}

}  // namespace sconce
