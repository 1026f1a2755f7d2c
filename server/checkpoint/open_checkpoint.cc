// OpenCheckpoint: looks at a file's first bytes, and opens it as what they say it is.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/containers.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/little_endian.h"

namespace sconce {
namespace {

using namespace std::string_view_literals;

constexpr int64_t kMagicBytes = 512;
constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;

bool LooksLikeZip(std::string_view start) {
  return start.starts_with("PK\3\4"sv) || start.starts_with("PK\5\6"sv);
}

// A header size that can be one, then an object: or an object right after any size, so that the
// error can tell what is wrong with the size.
bool LooksLikeSafetensors(std::string_view start) {
  if (start.size() < 9) return false;
  if (start[8] == '{') return true;
  const auto size = LoadLittleEndian<uint64_t>(start.data());
  return size > 0 && size <= kMaxSafetensorsHeader &&
         " \t\r\n"sv.find(start[8]) != std::string_view::npos;
}

// An object in text: the size in front of a safetensors header has zeros in it.
bool LooksLikeJson(std::string_view start) {
  const size_t first = start.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && start[first] == '{' &&
         start.substr(0, 8).find('\0') == std::string_view::npos;
}

// A pickle of an integer of ten bytes, as the magic number is; from protocol 4 on in a frame.
bool LooksLikeLegacyTorch(std::string_view start) {
  if (start.size() < 2 || start[0] != '\x80' || start[1] < 2 || start[1] > 5) return false;
  start.remove_prefix(2);
  if (start.starts_with('\x95')) start.remove_prefix(std::min<size_t>(9, start.size()));
  return start.starts_with("\x8a\x0a"sv);
}

// The first fields of a ModelProto: ir_version as a number, and then others that one has, as far as
// they can be seen.
bool LooksLikeOnnx(std::string_view start) {
  constexpr uint32_t kVarintFields = 1u << 1 | 1u << 5;
  constexpr uint32_t kTextFields = 1u << 2 | 1u << 3 | 1u << 4 | 1u << 6 | 1u << 7 | 1u << 8 |
                                   1u << 14 | 1u << 20 | 1u << 25 | 1u << 26;
  size_t at = 0;
  const auto varint = [&](uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64 && at < start.size(); shift += 7) {
      const auto byte = static_cast<uint8_t>(start[at++]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if ((byte & 0x80) == 0) return true;
    }
    return false;
  };
  int fields = 0;
  while (at < start.size()) {
    uint64_t tag, value;
    if (!varint(tag)) return fields > 1;
    const uint64_t number = tag >> 3;
    if (number == 0 || number > 31 || (fields == 0 && tag != 0x08)) return false;
    const bool is_varint = (kVarintFields >> number & 1) != 0 && (tag & 7) == 0;
    const bool is_text = (kTextFields >> number & 1) != 0 && (tag & 7) == 2;
    if (!is_varint && !is_text) return false;
    if (!varint(value)) return fields > 1;
    ++fields;
    if (!is_text) continue;
    if (value > start.size() - at) break;
    at += static_cast<size_t>(value);
  }
  return fields > 1;
}

struct Signature {
  size_t offset;
  std::string_view bytes;
  const char* meaning;
};

// The first that fits says what a file is which is not read.
constexpr Signature kSignatures[] = {
    {0, "version https://git-lfs"sv,
     "a Git LFS pointer, not the file it stands for; fetch that with 'git lfs pull'"},
    {0, "\x89HDF"sv, "an HDF5 file (Keras, perhaps), which holds no PyTorch weights"},
    {0, "\x93NUMPY"sv, "a NumPy array, which holds no named weights"},
    {0, "GGUF"sv, "a GGUF file, which cannot be read"},
    {0,
     "\x7f"
     "ELF"sv,
     "a program or shared library"},
    {0, "\x1f\x8b"sv, "a gzip file; unpack it first"},
    {0, "\x28\xb5\x2f\xfd"sv, "a zstd file; unpack it first"},
    {0,
     "\xfd"
     "7zXZ"sv,
     "an xz file; unpack it first"},
    {0, "BZh"sv, "a bzip2 file; unpack it first"},
    {0, "<!DOCTYPE"sv, "an HTML page, perhaps an error page saved by a download"},
    {0, "<html"sv, "an HTML page, perhaps an error page saved by a download"},
    {0, "{"sv, "a JSON file"},
    {0, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"sv,
     "zeros at the start: a file that is still being written, perhaps"},
};

std::string Meaning(std::string_view start) {
  for (const Signature& signature : kSignatures) {
    if (start.size() > signature.offset &&
        start.substr(signature.offset).starts_with(signature.bytes)) {
      return signature.meaning;
    }
  }
  if (start.size() >= 2 && start[0] == '\x80' && start[1] >= 2 && start[1] <= 5) {
    return "a bare pickle, which torch.save does not write and which cannot be read";
  }
  return absl::StrCat("an unknown format, starting with '", Printable(start.substr(0, 16)), "'");
}

absl::StatusOr<std::string> ReadStart(const File& file) {
  if (file.size_bytes() == 0) {
    return absl::InvalidArgumentError("expected a checkpoint, got an empty file");
  }
  std::string start(static_cast<size_t>(std::min(file.size_bytes(), kMagicBytes)), '\0');
  absl::Status read = ReadFrom(file, 0, {reinterpret_cast<std::byte*>(start.data()), start.size()});
  if (!read.ok()) return read;
  return start;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenByContent(File file,
                                                          const CheckpointOptions& options) {
  const absl::StatusOr<std::string> start = ReadStart(file);
  if (!start.ok()) return start.status();
  if (LooksLikeJson(*start)) return OpenSharded(std::move(file), options);
  return OpenSingleFile(std::move(file), options);
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenFileOrFolder(const std::string& path,
                                                             const CheckpointOptions& options) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    absl::StatusOr<std::unique_ptr<Checkpoint>> folder = OpenFolder(path, options);
    if (!folder.ok()) return InContext(Printable(path), folder.status());
    return folder;
  }
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = OpenByContent(*std::move(file), options);
  if (!checkpoint.ok()) return InContext(Printable(path), checkpoint.status());
  return checkpoint;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenSingleFile(File file,
                                                           const CheckpointOptions& options) {
  const absl::StatusOr<std::string> read = ReadStart(file);
  if (!read.ok()) return read.status();
  const std::string_view start = *read;
  if (LooksLikeZip(start)) return OpenTorchZip(std::move(file), options);
  if (start.size() > 262 && start.substr(257).starts_with("ustar")) {
    return OpenTorchTar(std::move(file), options);
  }
  if (LooksLikeLegacyTorch(start)) return OpenLegacyTorch(std::move(file), options);
  if (LooksLikeOnnx(start)) return OpenOnnx(std::move(file), options);
  if (LooksLikeSafetensors(start)) return OpenSafetensors(std::move(file), options);
  return absl::InvalidArgumentError(absl::StrCat(
      "expected a file of torch.save, safetensors or ONNX, or an index of several, got ",
      Meaning(start)));
}

absl::Status Checkpoint::ReadInto(const TensorDescriptor& tensor,
                                  absl::Span<std::byte> destination) const {
  if (static_cast<int64_t>(destination.size()) != tensor.size_bytes()) {
    return absl::InvalidArgumentError(absl::StrCat(
        Printable(path()), ": tensor '", Printable(tensor.name), "': expected a destination of ",
        tensor.size_bytes(), " bytes, got ", destination.size()));
  }
  return ReadRange(tensor, 0, destination);
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& path,
                                                           const CheckpointOptions& options) {
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = OpenFileOrFolder(path, options);
  if (!checkpoint.ok() || !options.verify_sha256) return checkpoint;
  if (absl::Status manifests = (*checkpoint)->UseManifests(); !manifests.ok()) return manifests;
  return checkpoint;
}

}  // namespace sconce
