#include "server/checkpoint/archive/zip_record.h"

#include <cstddef>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/checkpoint/data/crc32.h"
#include "server/checkpoint/error_context.h"

namespace sconce {

absl::StatusOr<std::string> ReadZipRecord(const File& file, const ZipEntry& entry,
                                          int64_t max_bytes, bool verify_crc) {
  if (entry.compressed) return Refused("expected an uncompressed record, got a compressed one");
  if (entry.size_bytes > max_bytes) {
    return Refused("expected at most ", max_bytes, " bytes, got ", entry.size_bytes);
  }
  std::string bytes(static_cast<size_t>(entry.size_bytes), '\0');
  const auto out = absl::MakeSpan(reinterpret_cast<std::byte*>(bytes.data()), bytes.size());
  if (absl::Status read = ReadFrom(file, entry.data_offset, out); !read.ok()) return read;
  if (verify_crc && ExtendCrc32(0, out) != entry.crc32) {
    return absl::DataLossError(
        "expected bytes with the checksum that the archive gives, got others: the file is damaged");
  }
  return bytes;
}

}  // namespace sconce
