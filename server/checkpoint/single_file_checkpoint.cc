#include "server/checkpoint/single_file_checkpoint.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/checkpoint/crc32.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/strided_copy.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

// Small enough that the checksum finds the bytes still in the cache.
constexpr int64_t kVerifiedPieceBytes = int64_t{1} << 20;

}  // namespace

SingleFileCheckpoint::SingleFileCheckpoint(const char* format, CheckpointListing listing, File file,
                                           std::vector<uint32_t> storage_crcs)
    : Checkpoint(std::move(listing)),
      format_(format),
      file_(std::move(file)),
      storage_crcs_(std::move(storage_crcs)),
      verified_(storage_crcs_.size()) {}

absl::Status SingleFileCheckpoint::ReadInto(const TensorDescriptor& tensor,
                                            absl::Span<std::byte> destination) const {
  const absl::Status read = Read(tensor, destination);
  if (read.ok()) return read;
  std::string member;
  if (tensor.storage >= 0 && static_cast<size_t>(tensor.storage) < storages().size()) {
    member = absl::StrCat(Printable(storages()[static_cast<size_t>(tensor.storage)].member), ": ");
  }
  return InContext(
      absl::StrCat(Printable(path()), ": ", member, "tensor '", Printable(tensor.name), "'"), read);
}

absl::Status SingleFileCheckpoint::Read(const TensorDescriptor& tensor,
                                        absl::Span<std::byte> destination) const {
  if (tensor.storage < 0 || static_cast<size_t>(tensor.storage) >= storages().size()) {
    return absl::InvalidArgumentError(absl::StrCat("expected one of ", storages().size(),
                                                   " storages, got number ", tensor.storage));
  }
  const auto index = static_cast<size_t>(tensor.storage);
  const StorageDescriptor& storage = storages()[index];
  // Checked when the file was opened; this guards against a descriptor that is not this file's.
  if (absl::Status fits = CheckTensorBounds(tensor, storage.size_bytes); !fits.ok()) return fits;
  if (static_cast<int64_t>(destination.size()) != tensor.size_bytes()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "expected a destination of ", tensor.size_bytes(), " bytes, got ", destination.size()));
  }
  const bool is_whole_storage = tensor.size_bytes() == storage.size_bytes && tensor.offset == 0 &&
                                IsContiguous(tensor.shape, tensor.strides);
  if (!storage_crcs_.empty() && is_whole_storage) {
    if (absl::Status read = ReadVerified(index, destination); !read.ok()) return read;
  } else {
    if (!storage_crcs_.empty()) {
      if (absl::Status verified = VerifyOnce(index); !verified.ok()) return verified;
    }
    const ReadStorage read = [this, &storage](int64_t offset, absl::Span<std::byte> out) {
      return ReadFrom(file_, storage.file_offset + offset, out);
    };
    if (absl::Status copied = CopyStrided(tensor, read, destination); !copied.ok()) return copied;
  }
  return ResolveBits(tensor, destination);
}

absl::Status SingleFileCheckpoint::ReadVerified(size_t storage,
                                                absl::Span<std::byte> destination) const {
  uint32_t crc = 0;
  for (size_t done = 0; done < destination.size();) {
    const absl::Span<std::byte> piece = destination.subspan(done, kVerifiedPieceBytes);
    const int64_t offset = storages()[storage].file_offset + static_cast<int64_t>(done);
    if (absl::Status read = ReadFrom(file_, offset, piece); !read.ok()) return read;
    crc = ExtendCrc32(crc, piece);
    done += piece.size();
  }
  return CompareCrc(storage, crc);
}

absl::Status SingleFileCheckpoint::VerifyOnce(size_t storage) const {
  if (verified_[storage].load(std::memory_order_relaxed)) return absl::OkStatus();
  const StorageDescriptor& descriptor = storages()[storage];
  const int64_t piece_size = std::min(kVerifiedPieceBytes, descriptor.size_bytes);
  std::vector<std::byte> buffer(static_cast<size_t>(piece_size));
  uint32_t crc = 0;
  for (int64_t done = 0; done < descriptor.size_bytes;) {
    const int64_t size = std::min(piece_size, descriptor.size_bytes - done);
    const auto piece = absl::MakeSpan(buffer).first(static_cast<size_t>(size));
    if (absl::Status read = ReadFrom(file_, descriptor.file_offset + done, piece); !read.ok()) {
      return read;
    }
    crc = ExtendCrc32(crc, piece);
    done += size;
  }
  if (absl::Status same = CompareCrc(storage, crc); !same.ok()) return same;
  verified_[storage].store(true, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status SingleFileCheckpoint::CompareCrc(size_t storage, uint32_t crc) const {
  if (crc == storage_crcs_[storage]) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      "expected bytes with checksum ", absl::Hex(storage_crcs_[storage], absl::kZeroPad8), ", got ",
      absl::Hex(crc, absl::kZeroPad8), ": the file is damaged"));
}

absl::Status SingleFileCheckpoint::CheckUnchanged() const { return file_.CheckUnchanged(); }

}  // namespace sconce
