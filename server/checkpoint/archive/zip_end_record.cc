#include "server/checkpoint/archive/zip_end_record.h"

#include <algorithm>

namespace sconce {
namespace {

constexpr uint32_t kEndSignature = 0x06054b50;
constexpr uint32_t kZip64EndSignature = 0x06064b50;
constexpr uint32_t kZip64LocatorSignature = 0x07064b50;

constexpr int64_t kEndSize = 22;
constexpr int64_t kZip64EndSize = 56;
constexpr int64_t kZip64LocatorSize = 20;

// kSaturated32 of a field of two bytes.
constexpr uint16_t kSaturated16 = 0xFFFF;

// One field of the end record: the zip64 end record's value must be the same, unless the small
// field is saturated and so defers to it.
absl::Status CheckAgrees(const char* what, uint64_t small, uint64_t saturated, uint64_t large) {
  if (small == saturated || small == large) return absl::OkStatus();
  return Refused("end records disagree on ", what, ": expected ", large,
                 " as in the zip64 end record, got ", small);
}

}  // namespace

absl::StatusOr<ZipDirectoryLocation> LocateZipDirectory(const ZipSource& source,
                                                        int64_t max_directory_bytes) {
  const int64_t file_size = source.size_bytes;
  if (file_size < kEndSize) {
    return Refused("expected a zip archive's end record, got a file of ", file_size,
                   " bytes: it is truncated");
  }
  const int64_t tail_size = std::min(file_size, kEndSize + kZip64LocatorSize + kZip64EndSize);
  absl::StatusOr<ZipBytes> tail = ReadZipBytes(source, file_size - tail_size, tail_size);
  if (!tail.ok()) return tail.status();

  const int64_t end = tail_size - kEndSize;
  if (ZipField<uint32_t>(*tail, end) != kEndSignature || ZipField<uint16_t>(*tail, end + 20) != 0) {
    return Refused("expected a zip end record in the file's last ", kEndSize,
                   " bytes, got something else: the file is truncated, still being written, or has "
                   "bytes after the archive");
  }
  const auto disk = ZipField<uint16_t>(*tail, end + 4);
  const auto directory_disk = ZipField<uint16_t>(*tail, end + 6);
  const auto disk_entries = ZipField<uint16_t>(*tail, end + 8);
  const auto entries = ZipField<uint16_t>(*tail, end + 10);
  const auto size = ZipField<uint32_t>(*tail, end + 12);
  const auto offset = ZipField<uint32_t>(*tail, end + 16);

  uint64_t total_entries = entries, total_size = size, directory_offset = offset;
  int64_t directory_end = file_size - kEndSize;
  const int64_t locator = end - kZip64LocatorSize;
  const bool has_zip64 =
      locator >= kZip64EndSize && ZipField<uint32_t>(*tail, locator) == kZip64LocatorSignature;
  if (has_zip64) {
    const int64_t end64 = locator - kZip64EndSize;
    directory_end = file_size - tail_size + end64;
    const auto claimed = ZipField<uint64_t>(*tail, locator + 8);
    if (claimed != static_cast<uint64_t>(directory_end) ||
        ZipField<uint32_t>(*tail, end64) != kZip64EndSignature) {
      return Refused("expected the zip64 end record at byte ", directory_end,
                     ", right before its locator, got a locator that points to byte ", claimed);
    }
    if (ZipField<uint64_t>(*tail, end64 + 4) != kZip64EndSize - 12) {
      return Refused("expected a zip64 end record of ", kZip64EndSize - 12, " bytes, got ",
                     ZipField<uint64_t>(*tail, end64 + 4));
    }
    if (ZipField<uint32_t>(*tail, end64 + 16) != 0 || ZipField<uint32_t>(*tail, end64 + 20) != 0 ||
        ZipField<uint64_t>(*tail, end64 + 24) != ZipField<uint64_t>(*tail, end64 + 32) ||
        ZipField<uint32_t>(*tail, locator + 4) != 0 ||
        ZipField<uint32_t>(*tail, locator + 16) > 1) {
      return Refused("expected an archive in one file, got one that is split over several");
    }
    total_entries = ZipField<uint64_t>(*tail, end64 + 32);
    total_size = ZipField<uint64_t>(*tail, end64 + 40);
    directory_offset = ZipField<uint64_t>(*tail, end64 + 48);
    for (const absl::Status& agreed :
         {CheckAgrees("the number of entries", entries, kSaturated16, total_entries),
          CheckAgrees("the central directory's size", size, kSaturated32, total_size),
          CheckAgrees("the central directory's offset", offset, kSaturated32, directory_offset)}) {
      if (!agreed.ok()) return agreed;
    }
  } else if (entries == kSaturated16 || size == kSaturated32 || offset == kSaturated32) {
    return Refused("the end record refers to a zip64 end record, got none before it");
  }
  if ((disk != 0 && disk != kSaturated16) ||
      (directory_disk != 0 && directory_disk != kSaturated16) ||
      (disk_entries != entries && disk_entries != kSaturated16)) {
    return Refused("expected an archive in one file, got one that is split over several");
  }
  const auto limit = static_cast<uint64_t>(directory_end);
  if (directory_offset > limit || total_size > limit - directory_offset) {
    return Refused("expected a central directory inside the file's ", file_size,
                   " bytes, got one at byte ", directory_offset, " of ", total_size, " bytes");
  }
  if (directory_offset + total_size != limit) {
    return Refused("expected the central directory to end at byte ", limit,
                   ", where the end records start, got an end at byte ",
                   directory_offset + total_size);
  }
  if (total_entries > total_size / kZipCentralSize) {
    return Refused("expected at most ", total_size / kZipCentralSize,
                   " entries in a central directory of ", total_size, " bytes, got ",
                   total_entries);
  }
  if (total_entries == 0) return Refused("expected records, got an archive without any");
  if (total_size > static_cast<uint64_t>(max_directory_bytes)) {
    return Refused("expected a central directory of at most ", max_directory_bytes, " bytes, got ",
                   total_size);
  }
  return ZipDirectoryLocation{.offset = static_cast<int64_t>(directory_offset),
                              .size_bytes = static_cast<int64_t>(total_size),
                              .entry_count = static_cast<int64_t>(total_entries)};
}

}  // namespace sconce
