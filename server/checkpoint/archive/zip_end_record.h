// The end of a zip archive, where reading starts: the end record, and before it the zip64 end
// record and its locator, which between them say where the central directory lies. Internal to
// zip_archive.cc.
#ifndef SCONCE_SERVER_CHECKPOINT_ARCHIVE_ZIP_END_RECORD_H_
#define SCONCE_SERVER_CHECKPOINT_ARCHIVE_ZIP_END_RECORD_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/file.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/little_endian.h"

namespace sconce {

// A field that does not fit holds this, and a zip64 record the value.
inline constexpr uint32_t kSaturated32 = 0xFFFFFFFF;

using ZipBytes = std::vector<std::byte>;

// The part of a file that is an archive. All offsets in an archive count from its start.
struct ZipSource {
  const File& file;
  int64_t offset = 0;
  int64_t size_bytes = 0;
};

// REQUIRES: the range lies inside the source, and is of a size that may be allocated.
inline absl::StatusOr<ZipBytes> ReadZipBytes(const ZipSource& source, int64_t offset,
                                             int64_t size) {
  ZipBytes bytes(static_cast<size_t>(size));
  absl::Status read = ReadFrom(source.file, source.offset + offset, absl::MakeSpan(bytes));
  if (!read.ok()) return read;
  return bytes;
}

template <typename T>
T ZipField(const ZipBytes& bytes, int64_t offset) {
  return LoadLittleEndian<T>(bytes.data() + offset);
}

// A central directory entry without its name and other parts of variable length.
inline constexpr int64_t kZipCentralSize = 46;

struct ZipDirectoryLocation {
  int64_t offset = 0;
  int64_t size_bytes = 0;
  int64_t entry_count = 0;  // as claimed; it fits the size
};

// Finds the central directory and checks that it lies right before the end records, which have to
// be the last bytes of the file and to agree with one another.
absl::StatusOr<ZipDirectoryLocation> LocateZipDirectory(const ZipSource& source,
                                                        int64_t max_directory_bytes);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_ARCHIVE_ZIP_END_RECORD_H_
