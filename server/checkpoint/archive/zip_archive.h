// ZipArchive: the list of records of a zip file as torch.save writes it, checked in full before
// anything is believed.
//
//   archive   = record* central_entry* [zip64_end zip64_locator] end_record
//   record    = local_header name extra data [data_descriptor]
//
// The central directory is the only source of sizes (local headers may hold zeros there), but the
// local header alone says where a record's data starts; both are read and must agree. Everything
// that lets two readers see two different archives in one file is refused: trailing bytes, archive
// comments, names that differ, overlapping records, saturated fields without zip64.
//
// Only structure is read, and nothing is ever decompressed. Immutable; thread-safe.
#ifndef SCONCE_SERVER_CHECKPOINT_ARCHIVE_ZIP_ARCHIVE_H_
#define SCONCE_SERVER_CHECKPOINT_ARCHIVE_ZIP_ARCHIVE_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/file.h"

namespace sconce {

struct ZipEntry {
  std::string name;               // with the top folder
  int64_t data_offset = 0;        // in the file
  int64_t stored_size_bytes = 0;  // in the file
  int64_t size_bytes = 0;         // equal to the above unless compressed
  uint32_t crc32 = 0;
  bool compressed = false;
};

class ZipArchive {
 public:
  // Errors do not name the file's path; the caller does.
  static absl::StatusOr<ZipArchive> Open(const File& file, int64_t max_directory_bytes);

  // An archive that is a part of the file: all of `size_bytes` from `offset` on.
  static absl::StatusOr<ZipArchive> OpenSection(const File& file, int64_t offset,
                                                int64_t size_bytes, int64_t max_directory_bytes);

  // The one folder that holds every record, without the slash.
  const std::string& top_folder() const { return top_folder_; }

  // In the central directory's order.
  const std::vector<ZipEntry>& entries() const { return entries_; }

  // The record at "<top folder>/<relative_name>", null if there is none. Lives as long as this.
  const ZipEntry* Find(std::string_view relative_name) const;

 private:
  ZipArchive(std::string top_folder, std::vector<ZipEntry> entries);

  std::string top_folder_;
  std::vector<ZipEntry> entries_;
  std::map<std::string, size_t, std::less<>> index_;  // relative name -> place in entries_
};

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_ARCHIVE_ZIP_ARCHIVE_H_
