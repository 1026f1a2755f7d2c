// OpenCheckpoint: looks at a file's first bytes, and opens it as what they say it is.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
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

struct Signature {
  size_t offset;
  std::string_view bytes;
  const char* meaning;
};

// The first that fits says what a file is which is not read.
constexpr Signature kSignatures[] = {
    {0, "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"sv,
     "a torch.save file from before PyTorch 1.6, which cannot be read; load it in Python and save "
     "it again"},
    {257, "ustar"sv,
     "a tar archive, as the very first versions of PyTorch wrote or as a download came; it cannot "
     "be read"},
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
    {0, "{"sv,
     "a JSON file, perhaps the index of a checkpoint in several files, which cannot be read"},
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

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenByContent(File file,
                                                          const CheckpointOptions& options) {
  if (file.size_bytes() == 0) {
    return absl::InvalidArgumentError("expected a checkpoint, got an empty file");
  }
  std::array<char, kMagicBytes> buffer;
  const auto size = static_cast<size_t>(std::min(file.size_bytes(), kMagicBytes));
  absl::Status read = ReadFrom(file, 0, {reinterpret_cast<std::byte*>(buffer.data()), size});
  if (!read.ok()) return read;
  const std::string_view start(buffer.data(), size);
  if (LooksLikeZip(start)) return OpenTorchZip(std::move(file), options);
  if (LooksLikeSafetensors(start)) return OpenSafetensors(std::move(file), options);
  return absl::InvalidArgumentError(absl::StrCat(
      "expected a torch.save zip archive or a safetensors file, got ", Meaning(start)));
}

}  // namespace

absl::Status Checkpoint::ReadInto(const TensorDescriptor& tensor,
                                  absl::Span<std::byte> destination) const {
  if (static_cast<int64_t>(destination.size()) != tensor.size_bytes()) {
    return absl::InvalidArgumentError(
        absl::StrCat(Printable(path()), ": tensor '", Printable(tensor.name),
                     "': expected a destination of ", tensor.size_bytes(), " bytes, got ",
                     destination.size()));
  }
  return ReadRange(tensor, 0, destination);
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const std::string& path,
                                                           const CheckpointOptions& options) {
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = OpenByContent(*std::move(file), options);
  if (!checkpoint.ok()) return InContext(Printable(path), checkpoint.status());
  return checkpoint;
}

}  // namespace sconce
