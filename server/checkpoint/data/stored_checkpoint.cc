#include "server/checkpoint/data/stored_checkpoint.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/checkpoint/data/chunked_copy.h"
#include "server/checkpoint/data/crc32.h"
#include "server/checkpoint/data/resolve_bits.h"
#include "server/checkpoint/data/strided_copy.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

// Small enough that the checksum finds the bytes still in the cache.
constexpr int64_t kVerifiedPieceBytes = int64_t{1} << 20;

CheckpointListing WithFiles(CheckpointListing listing, const std::vector<File>& files) {
  for (const File& file : files) listing.files.push_back({file.path(), file.fingerprint()});
  return listing;
}

absl::Status CheckRange(const TensorDescriptor& tensor, int64_t offset_bytes, int64_t size) {
  if (offset_bytes < 0 || offset_bytes > tensor.size_bytes() ||
      size > tensor.size_bytes() - offset_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("expected a range inside the tensor's ",
                                                   tensor.size_bytes(), " bytes, got ", size,
                                                   " bytes from byte ", offset_bytes));
  }
  if (const int64_t element = DTypeSize(tensor.dtype);
      offset_bytes % element != 0 || size % element != 0) {
    return absl::InvalidArgumentError(absl::StrCat("expected a range of whole elements of ",
                                                   element, " bytes, got ", size,
                                                   " bytes from byte ", offset_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

StoredCheckpoint::StoredCheckpoint(const char* format, CheckpointListing listing,
                                   std::vector<File> files, std::vector<uint32_t> storage_crcs)
    : Checkpoint(WithFiles(std::move(listing), files)),
      format_(format),
      files_(std::move(files)),
      storage_crcs_(std::move(storage_crcs)),
      verified_(storage_crcs_.size()) {
  for (const File& file : files_) file.ExpectSequentialReads();
}

absl::Status StoredCheckpoint::ReadRange(const TensorDescriptor& tensor, int64_t offset_bytes,
                                         absl::Span<std::byte> destination) const {
  if (absl::Status verified = VerifyFilesOnce(); !verified.ok()) return verified;
  return About(tensor, Read(tensor, offset_bytes, destination));
}

absl::Status StoredCheckpoint::About(const TensorDescriptor& tensor,
                                     const absl::Status& status) const {
  if (status.ok()) return status;
  std::string where = Printable(path());
  if (tensor.storage >= 0 && static_cast<size_t>(tensor.storage) < storages().size()) {
    const StorageDescriptor& storage = storages()[static_cast<size_t>(tensor.storage)];
    where = absl::StrCat(Printable(files_[static_cast<size_t>(storage.file)].path()), ": ",
                         Printable(storage.member));
  }
  return InContext(absl::StrCat(where, ": tensor '", Printable(tensor.name), "'"), status);
}

absl::Status StoredCheckpoint::ReadStorage(const StorageDescriptor& storage, int64_t offset,
                                           absl::Span<std::byte> out) const {
  if (storage.decoded != nullptr) {
    std::memcpy(out.data(), storage.decoded->data() + offset, out.size());
    return absl::OkStatus();
  }
  return ReadFrom(files_[static_cast<size_t>(storage.file)], storage.file_offset + offset, out);
}

absl::Status StoredCheckpoint::Read(const TensorDescriptor& tensor, int64_t offset_bytes,
                                    absl::Span<std::byte> destination) const {
  if (tensor.sparse.has_value()) {
    return absl::InvalidArgumentError("expected a dense tensor, got a sparse one");
  }
  if (tensor.chunks != nullptr) {
    const auto size = static_cast<int64_t>(destination.size());
    if (absl::Status fits = CheckRange(tensor, offset_bytes, size); !fits.ok()) return fits;
    const ReadBlock read = [this](const TensorDescriptor& block, int64_t offset,
                                  absl::Span<std::byte> out) { return Read(block, offset, out); };
    return CopyChunks(tensor, offset_bytes, read, destination);
  }
  if (tensor.storage < 0 || static_cast<size_t>(tensor.storage) >= storages().size()) {
    return absl::InvalidArgumentError(absl::StrCat("expected one of ", storages().size(),
                                                   " storages, got number ", tensor.storage));
  }
  const auto index = static_cast<size_t>(tensor.storage);
  const StorageDescriptor& storage = storages()[index];
  // Checked when the file was opened; this guards against a descriptor that is not this file's.
  if (absl::Status fits = CheckTensorBounds(tensor, storage.size_bytes); !fits.ok()) return fits;
  const auto size = static_cast<int64_t>(destination.size());
  if (absl::Status fits = CheckRange(tensor, offset_bytes, size); !fits.ok()) return fits;
  const bool is_whole_storage = size == storage.size_bytes && offset_bytes == 0 &&
                                tensor.offset == 0 && IsContiguous(tensor.shape, tensor.strides);
  if (!storage_crcs_.empty() && is_whole_storage) {
    if (absl::Status read = ReadVerified(index, destination); !read.ok()) return read;
  } else {
    if (!storage_crcs_.empty()) {
      if (absl::Status verified = VerifyOnce(index); !verified.ok()) return verified;
    }
    const sconce::ReadStorage read = [this, &storage](int64_t offset, absl::Span<std::byte> out) {
      return ReadStorage(storage, offset, out);
    };
    if (absl::Status copied = CopyRange(tensor, offset_bytes, read, destination); !copied.ok())
      return copied;
  }
  return ResolveBits(tensor, destination);
}

absl::Status StoredCheckpoint::ReadVerified(size_t storage,
                                            absl::Span<std::byte> destination) const {
  uint32_t crc = 0;
  for (size_t done = 0; done < destination.size();) {
    const absl::Span<std::byte> piece = destination.subspan(done, kVerifiedPieceBytes);
    absl::Status read = ReadStorage(storages()[storage], static_cast<int64_t>(done), piece);
    if (!read.ok()) return read;
    crc = ExtendCrc32(crc, piece);
    done += piece.size();
  }
  return CompareCrc(storage, crc);
}

absl::Status StoredCheckpoint::VerifyOnce(size_t storage) const {
  if (verified_[storage].load(std::memory_order_relaxed)) return absl::OkStatus();
  const StorageDescriptor& descriptor = storages()[storage];
  const int64_t piece_size = std::min(kVerifiedPieceBytes, descriptor.size_bytes);
  std::vector<std::byte> buffer(static_cast<size_t>(piece_size));
  uint32_t crc = 0;
  for (int64_t done = 0; done < descriptor.size_bytes;) {
    const int64_t size = std::min(piece_size, descriptor.size_bytes - done);
    const auto piece = absl::MakeSpan(buffer).first(static_cast<size_t>(size));
    if (absl::Status read = ReadStorage(descriptor, done, piece); !read.ok()) return read;
    crc = ExtendCrc32(crc, piece);
    done += size;
  }
  if (absl::Status same = CompareCrc(storage, crc); !same.ok()) return same;
  verified_[storage].store(true, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status StoredCheckpoint::CompareCrc(size_t storage, uint32_t crc) const {
  if (crc == storage_crcs_[storage]) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      "expected bytes with checksum ", absl::Hex(storage_crcs_[storage], absl::kZeroPad8), ", got ",
      absl::Hex(crc, absl::kZeroPad8), ": the file is damaged"));
}

absl::Status StoredCheckpoint::CheckUnchanged() const {
  for (const File& file : files_) {
    if (absl::Status unchanged = file.CheckUnchanged(); !unchanged.ok()) return unchanged;
  }
  return absl::OkStatus();
}

}  // namespace sconce
