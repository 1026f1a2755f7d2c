#include "server/checkpoint/archive/zip_archive.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "server/base/printable.h"
#include "server/checkpoint/archive/zip_end_record.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/little_endian.h"

namespace sconce {
namespace {

constexpr uint32_t kCentralSignature = 0x02014b50;
constexpr uint32_t kLocalSignature = 0x04034b50;

constexpr int64_t kLocalFixedSize = 30;

// General purpose flags: encrypted, strongly encrypted, central directory encrypted.
constexpr uint16_t kEncryptionFlags = 1u << 0 | 1u << 6 | 1u << 13;
constexpr uint16_t kDataDescriptorFlag = 1u << 3;

constexpr uint16_t kMethodStored = 0;
constexpr uint16_t kMethodDeflated = 8;
// DEFLATE cannot do better than 1032 to 1; a record that claims more lies about its size.
constexpr uint64_t kMaxDeflateRatio = 1032;

constexpr uint16_t kZip64ExtraId = 0x0001;

// Finds the zip64 field among `extra`, which must be a sound sequence of (id, size, bytes).
absl::StatusOr<std::optional<absl::Span<const std::byte>>> FindZip64Extra(
    absl::Span<const std::byte> extra) {
  std::optional<absl::Span<const std::byte>> found;
  while (!extra.empty()) {
    if (extra.size() < 4)
      return Refused("expected extra fields, got ", extra.size(), " loose bytes");
    const auto id = LoadLittleEndian<uint16_t>(extra.data());
    const auto size = LoadLittleEndian<uint16_t>(extra.data() + 2);
    extra.remove_prefix(4);
    if (size > extra.size()) {
      return Refused("expected an extra field of at most ", extra.size(), " bytes, got ", size);
    }
    if (id == kZip64ExtraId) {
      if (found.has_value()) return Refused("expected one zip64 extra field, got two");
      found = extra.first(size);
    }
    extra.remove_prefix(size);
  }
  return found;
}

// What the central directory says of one record.
struct CentralEntry {
  std::string name;
  uint16_t flags = 0;
  uint16_t method = 0;
  uint32_t crc32 = 0;
  uint64_t stored_size = 0;
  uint64_t size = 0;
  uint64_t local_offset = 0;
};

absl::Status CheckName(std::string_view name) {
  if (name.empty()) return Refused("expected a name, got an empty one");
  if (name.find('\0') != std::string_view::npos) return Refused("expected a name without NUL");
  if (name.find('\\') != std::string_view::npos)
    return Refused("expected a name without backslashes");
  if (name.front() == '/') return Refused("expected a relative name, got an absolute one");
  if (name.size() > 1 && name[1] == ':')
    return Refused("expected a relative name, got a drive letter");
  if (name.back() == '/') name.remove_suffix(1);  // a folder's own record
  for (size_t start = 0; start <= name.size();) {
    const size_t slash = std::min(name.find('/', start), name.size());
    const std::string_view part = name.substr(start, slash - start);
    if (part.empty() || part == "." || part == "..") {
      return Refused("expected a plain path, got a part that is '", std::string(part), "'");
    }
    start = slash + 1;
  }
  return absl::OkStatus();
}

// Takes the 64-bit values of the saturated fields from the zip64 extra, in the order of the format.
absl::Status ResolveZip64(absl::Span<const std::byte> extra, CentralEntry& entry) {
  absl::StatusOr<std::optional<absl::Span<const std::byte>>> zip64 = FindZip64Extra(extra);
  if (!zip64.ok()) return zip64.status();
  absl::Span<const std::byte> values = zip64->value_or(absl::Span<const std::byte>());
  for (uint64_t* field : {&entry.size, &entry.stored_size, &entry.local_offset}) {
    if (*field != kSaturated32) continue;
    if (values.size() < 8) {
      return Refused("expected a zip64 extra field with the values that do not fit 32 bits, got ",
                     zip64->has_value() ? "a shorter one" : "none");
    }
    *field = LoadLittleEndian<uint64_t>(values.data());
    values.remove_prefix(8);
  }
  // A disk number may follow; it is only written for archives in several files.
  if (!values.empty()) {
    return Refused("expected a zip64 extra field with as many values as are missing, got ",
                   values.size(), " bytes more");
  }
  return absl::OkStatus();
}

absl::Status CheckCentral(const CentralEntry& entry, int64_t directory_offset) {
  if (absl::Status name = CheckName(entry.name); !name.ok()) return name;
  if ((entry.flags & kEncryptionFlags) != 0)
    return Refused("expected a plain record, got an encrypted one");
  if (entry.method != kMethodStored && entry.method != kMethodDeflated) {
    return Refused("expected a stored record, got compression method ", entry.method);
  }
  if (entry.method == kMethodStored && entry.size != entry.stored_size) {
    return Refused("expected equal sizes of a stored record, got ", entry.stored_size, " and ",
                   entry.size);
  }
  if (entry.method == kMethodDeflated && entry.size / kMaxDeflateRatio > entry.stored_size) {
    return Refused("expected at most ", kMaxDeflateRatio, " times the ", entry.stored_size,
                   " compressed bytes, got a claim of ", entry.size);
  }
  const auto limit = static_cast<uint64_t>(directory_offset);
  if (entry.local_offset > limit || limit - entry.local_offset < kLocalFixedSize ||
      entry.stored_size > limit - entry.local_offset - kLocalFixedSize) {
    return Refused("expected a record that ends before the central directory at byte ", limit,
                   ", got ", entry.stored_size, " bytes at byte ", entry.local_offset);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<CentralEntry>> ReadDirectory(const ZipSource& source,
                                                        const ZipDirectoryLocation& location) {
  absl::StatusOr<ZipBytes> bytes = ReadZipBytes(source, location.offset, location.size_bytes);
  if (!bytes.ok()) return bytes.status();
  std::vector<CentralEntry> entries;
  entries.reserve(static_cast<size_t>(location.entry_count));
  int64_t at = 0;
  for (int64_t i = 0; i < location.entry_count; ++i) {
    const int64_t left = location.size_bytes - at;
    if (left < kZipCentralSize || ZipField<uint32_t>(*bytes, at) != kCentralSignature) {
      return Refused("expected ", location.entry_count, " entries in the central directory, got ",
                     i, " and then something else");
    }
    const int64_t name_size = ZipField<uint16_t>(*bytes, at + 28);
    const int64_t extra_size = ZipField<uint16_t>(*bytes, at + 30);
    const int64_t comment_size = ZipField<uint16_t>(*bytes, at + 32);
    const int64_t whole_size = kZipCentralSize + name_size + extra_size + comment_size;
    if (whole_size > left) {
      return Refused("expected entry ", i, " inside the central directory, got ", whole_size,
                     " bytes where ", left, " are left");
    }
    const char* name = reinterpret_cast<const char*>(bytes->data()) + at + kZipCentralSize;
    CentralEntry entry{.name = std::string(name, static_cast<size_t>(name_size)),
                       .flags = ZipField<uint16_t>(*bytes, at + 8),
                       .method = ZipField<uint16_t>(*bytes, at + 10),
                       .crc32 = ZipField<uint32_t>(*bytes, at + 16),
                       .stored_size = ZipField<uint32_t>(*bytes, at + 20),
                       .size = ZipField<uint32_t>(*bytes, at + 24),
                       .local_offset = ZipField<uint32_t>(*bytes, at + 42)};
    const std::string where = absl::StrCat("record '", Printable(entry.name), "'");
    if (ZipField<uint16_t>(*bytes, at + 34) != 0) {
      return InContext(where, Refused("expected a record in this file, got one on another disk"));
    }
    const auto extra = absl::MakeConstSpan(*bytes).subspan(
        static_cast<size_t>(at + kZipCentralSize + name_size), static_cast<size_t>(extra_size));
    for (const absl::Status& checked :
         {ResolveZip64(extra, entry), CheckCentral(entry, location.offset)}) {
      if (!checked.ok()) return InContext(where, checked);
    }
    entries.push_back(std::move(entry));
    at += whole_size;
  }
  if (at != location.size_bytes) {
    return Refused("expected ", location.entry_count, " entries to fill the central directory's ",
                   location.size_bytes, " bytes, got ", location.size_bytes - at, " bytes more");
  }
  return entries;
}

// A size in the local header: the central one, or zero where a data descriptor follows the data, or
// saturated with either of them in the zip64 extra.
bool LocalSizeAgrees(uint64_t local, std::optional<uint64_t> zip64, uint64_t central,
                     bool has_descriptor) {
  if (local == kSaturated32 && zip64.has_value()) local = *zip64;
  return local == central || (has_descriptor && local == 0);
}

// Reads the local header; returns where the record's data starts.
absl::StatusOr<int64_t> ReadLocalHeader(const ZipSource& source, const CentralEntry& entry,
                                        int64_t directory_offset) {
  const auto offset = static_cast<int64_t>(entry.local_offset);
  const auto name_size = static_cast<int64_t>(entry.name.size());
  // Enough for the zip64 extra, which comes first where there is one.
  constexpr int64_t kExtraGuess = 64;
  const int64_t guess = kLocalFixedSize + name_size + kExtraGuess;
  absl::StatusOr<ZipBytes> header =
      ReadZipBytes(source, offset, std::min(guess, directory_offset - offset));
  if (!header.ok()) return header.status();
  if (ZipField<uint32_t>(*header, 0) != kLocalSignature) {
    return Refused("expected a local header at byte ", offset, ", got something else");
  }
  const auto flags = ZipField<uint16_t>(*header, 6);
  const auto method = ZipField<uint16_t>(*header, 8);
  const auto crc = ZipField<uint32_t>(*header, 14);
  const auto stored_size = ZipField<uint32_t>(*header, 18);
  const auto size = ZipField<uint32_t>(*header, 22);
  const int64_t local_name_size = ZipField<uint16_t>(*header, 26);
  const int64_t extra_size = ZipField<uint16_t>(*header, 28);
  const int64_t data_offset = offset + kLocalFixedSize + local_name_size + extra_size;
  if (local_name_size != name_size ||
      static_cast<int64_t>(header->size()) < kLocalFixedSize + name_size ||
      std::memcmp(header->data() + kLocalFixedSize, entry.name.data(), entry.name.size()) != 0) {
    return Refused("expected the same name in the local header at byte ", offset,
                   ", got a different one");
  }
  if (data_offset > directory_offset ||
      static_cast<int64_t>(entry.stored_size) > directory_offset - data_offset) {
    return Refused("expected data that ends before the central directory at byte ",
                   directory_offset, ", got ", entry.stored_size, " bytes at byte ", data_offset);
  }
  if ((flags & kEncryptionFlags) != 0)
    return Refused("expected a plain record, got an encrypted one");
  if (method != entry.method) {
    return Refused("expected compression method ", entry.method, " in the local header too, got ",
                   method);
  }
  std::optional<uint64_t> zip64_size, zip64_stored_size;
  if (stored_size == kSaturated32 || size == kSaturated32) {
    absl::StatusOr<ZipBytes> extra =
        ReadZipBytes(source, offset + kLocalFixedSize + local_name_size, extra_size);
    if (!extra.ok()) return extra.status();
    auto zip64 = FindZip64Extra(*extra);
    if (!zip64.ok()) return zip64.status();
    if (zip64->has_value() && (*zip64)->size() >= 16) {
      zip64_size = LoadLittleEndian<uint64_t>((*zip64)->data());
      zip64_stored_size = LoadLittleEndian<uint64_t>((*zip64)->data() + 8);
    }
  }
  const bool has_descriptor = (flags & kDataDescriptorFlag) != 0;
  if (!LocalSizeAgrees(size, zip64_size, entry.size, has_descriptor) ||
      !LocalSizeAgrees(stored_size, zip64_stored_size, entry.stored_size, has_descriptor)) {
    return Refused("expected ", entry.stored_size, " and ", entry.size,
                   " bytes in the local header too, got ", stored_size, " and ", size);
  }
  if (crc != entry.crc32 && !(has_descriptor && crc == 0)) {
    return Refused(
        "expected the central directory's checksum in the local header too, got another");
  }
  return data_offset;
}

absl::Status CheckNamesAreDistinct(const std::vector<CentralEntry>& entries) {
  std::vector<std::string> names;
  names.reserve(entries.size());
  // Names that differ in case alone are one file to a case-insensitive reader.
  for (const CentralEntry& entry : entries) names.push_back(absl::AsciiStrToLower(entry.name));
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice == names.end()) return absl::OkStatus();
  return Refused("expected distinct record names, got '", Printable(*twice),
                 "' twice (upper and lower case taken as equal)");
}

absl::Status CheckNoOverlap(std::vector<std::pair<int64_t, int64_t>> extents) {
  std::sort(extents.begin(), extents.end());
  for (size_t i = 1; i < extents.size(); ++i) {
    if (extents[i].first < extents[i - 1].second) {
      return Refused("expected records one after the other, got overlapping ones at bytes ",
                     extents[i - 1].first, " and ", extents[i].first);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ZipArchive> ZipArchive::Open(const File& file, int64_t max_directory_bytes) {
  return OpenSection(file, 0, file.size_bytes(), max_directory_bytes);
}

absl::StatusOr<ZipArchive> ZipArchive::OpenSection(const File& file, int64_t offset,
                                                   int64_t size_bytes,
                                                   int64_t max_directory_bytes) {
  if (offset < 0 || size_bytes < 0 || offset > file.size_bytes() ||
      size_bytes > file.size_bytes() - offset) {
    return Refused("expected an archive inside the file's ", file.size_bytes(), " bytes, got ",
                   size_bytes, " bytes at byte ", offset);
  }
  const ZipSource source{.file = file, .offset = offset, .size_bytes = size_bytes};
  absl::StatusOr<ZipDirectoryLocation> location = LocateZipDirectory(source, max_directory_bytes);
  if (!location.ok()) return location.status();
  absl::StatusOr<std::vector<CentralEntry>> directory = ReadDirectory(source, *location);
  if (!directory.ok()) return directory.status();
  if (absl::Status names = CheckNamesAreDistinct(*directory); !names.ok()) return names;

  const std::string first_name = directory->front().name;
  const size_t slash = first_name.find('/');
  if (slash == std::string::npos) {
    const bool is_exported = std::any_of(
        directory->begin(), directory->end(),
        [](const CentralEntry& entry) { return entry.name == "serialized_exported_program.json"; });
    if (is_exported) {
      return Refused(
          "expected an exported program as PyTorch 2.8 or later writes it, got one of an earlier "
          "PyTorch; load it with torch.export.load and save it again with a newer PyTorch, or save "
          "its state_dict with torch.save");
    }
    return Refused("expected all records in one top folder, got '", Printable(first_name),
                   "' outside of any: not an archive that torch.save wrote");
  }
  std::string top_folder = first_name.substr(0, slash);
  const std::string prefix = first_name.substr(0, slash + 1);

  // Local headers lie apart: from a disk they come all at once rather than one after the other.
  for (const CentralEntry& central : *directory) {
    file.Prefetch(offset + static_cast<int64_t>(central.local_offset), kLocalFixedSize);
  }
  std::vector<ZipEntry> entries;
  entries.reserve(directory->size());
  std::vector<std::pair<int64_t, int64_t>> extents;
  extents.reserve(directory->size());
  for (CentralEntry& central : *directory) {
    const std::string where = absl::StrCat("record '", Printable(central.name), "'");
    if (!std::string_view(central.name).starts_with(prefix)) {
      return InContext(where, Refused("expected all records in the top folder '",
                                      Printable(top_folder), "', got one outside"));
    }
    if (central.name.back() == '/' && central.size != 0) {
      return InContext(
          where, Refused("expected no data in a folder's record, got ", central.size, " bytes"));
    }
    absl::StatusOr<int64_t> data_offset = ReadLocalHeader(source, central, location->offset);
    if (!data_offset.ok()) return InContext(where, data_offset.status());
    const auto stored_size = static_cast<int64_t>(central.stored_size);
    extents.emplace_back(static_cast<int64_t>(central.local_offset), *data_offset + stored_size);
    entries.push_back({.name = std::move(central.name),
                       .data_offset = offset + *data_offset,
                       .stored_size_bytes = stored_size,
                       .size_bytes = static_cast<int64_t>(central.size),
                       .crc32 = central.crc32,
                       .compressed = central.method != kMethodStored});
  }
  if (absl::Status apart = CheckNoOverlap(std::move(extents)); !apart.ok()) return apart;
  return ZipArchive(std::move(top_folder), std::move(entries));
}

ZipArchive::ZipArchive(std::string top_folder, std::vector<ZipEntry> entries)
    : top_folder_(std::move(top_folder)), entries_(std::move(entries)) {
  for (size_t i = 0; i < entries_.size(); ++i) {
    index_.emplace(entries_[i].name.substr(top_folder_.size() + 1), i);
  }
}

const ZipEntry* ZipArchive::Find(std::string_view relative_name) const {
  const auto found = index_.find(relative_name);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

}  // namespace sconce
