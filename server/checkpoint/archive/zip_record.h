// ReadZipRecord: all bytes of a small, uncompressed record of a zip archive.
#ifndef SCONCE_SERVER_CHECKPOINT_ARCHIVE_ZIP_RECORD_H_
#define SCONCE_SERVER_CHECKPOINT_ARCHIVE_ZIP_RECORD_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "server/base/file.h"
#include "server/checkpoint/archive/zip_archive.h"

namespace sconce {

// A record of more than `max_bytes` is refused. `verify_crc`: compares the bytes with the checksum
// that the archive gives.
absl::StatusOr<std::string> ReadZipRecord(const File& file, const ZipEntry& entry,
                                          int64_t max_bytes, bool verify_crc);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_ARCHIVE_ZIP_RECORD_H_
