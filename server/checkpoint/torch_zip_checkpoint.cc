// The container of torch.save since PyTorch 1.6: a zip archive of uncompressed records in one top
// folder.
//
//   data.pkl            the pickled object; its tensors refer to storages by key
//   data/<key>          a storage's bytes
//   version             format version, a decimal number (or .data/version)
//   byteorder           "little" (absent in older files)
//   .format_version, .storage_alignment, .data/serialization_id    (newer files)

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/checkpoint/containers.h"
#include "server/checkpoint/crc32.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/pickle_machine.h"
#include "server/checkpoint/stored_checkpoint.h"
#include "server/checkpoint/state_dict_extractor.h"
#include "server/checkpoint/tensor_rebuilder.h"
#include "server/checkpoint/zip_archive.h"

namespace sconce {
namespace {

constexpr int64_t kLowestVersion = 1;
constexpr int64_t kHighestVersion = 10;
constexpr int64_t kMaxNoteBytes = 64;  // of the records that hold one word

absl::StatusOr<std::string> ReadRecord(const File& file, const ZipEntry& entry, int64_t max_bytes,
                                       bool verify_crc) {
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

// A record of one short word or number; nullopt where there is none. Trailing line ends are cut.
absl::StatusOr<std::optional<std::string>> ReadNote(const File& file, const ZipArchive& archive,
                                                    std::string_view name, bool verify_crc) {
  const ZipEntry* entry = archive.Find(name);
  if (entry == nullptr) return std::optional<std::string>();
  absl::StatusOr<std::string> text = ReadRecord(file, *entry, kMaxNoteBytes, verify_crc);
  if (!text.ok()) return InContext(Printable(entry->name), text.status());
  while (!text->empty() && (text->back() == '\n' || text->back() == '\r')) text->pop_back();
  return std::optional<std::string>(*std::move(text));
}

std::optional<int64_t> ParseNumber(std::string_view text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// One of the format's notes with what is expected of it.
struct Note {
  const char* name;
  const char* expected;
  bool (*is_good)(std::string_view text);
};

bool IsKnownVersion(std::string_view text) {
  const std::optional<int64_t> version = ParseNumber(text);
  return version.has_value() && *version >= kLowestVersion && *version <= kHighestVersion;
}

bool IsAlignment(std::string_view text) {
  const std::optional<int64_t> alignment = ParseNumber(text);
  return alignment.has_value() && *alignment > 0;
}

constexpr Note kNotes[] = {
    {"version", "a format version from 1 to 10", IsKnownVersion},
    {".data/version", "a format version from 1 to 10", IsKnownVersion},
    {".format_version", "format version 1", [](std::string_view text) { return text == "1"; }},
    {"byteorder", "'little'", [](std::string_view text) { return text == "little"; }},
    {".storage_alignment", "an alignment of 1 or more", IsAlignment},
};

absl::Status CheckNotes(const File& file, const ZipArchive& archive, bool verify_crc) {
  for (const Note& note : kNotes) {
    const absl::StatusOr<std::optional<std::string>> text =
        ReadNote(file, archive, note.name, verify_crc);
    if (!text.ok()) return text.status();
    if (!text->has_value() || note.is_good(**text)) continue;
    return Refused(Printable(archive.top_folder()), "/", note.name, ": expected ", note.expected,
                   ", got '", Printable(**text), "'");
  }
  if (archive.Find("version") == nullptr && archive.Find(".data/version") == nullptr) {
    return Refused("expected a record 'version' in '", Printable(archive.top_folder()),
                   "', got none");
  }
  return absl::OkStatus();
}

// Other things that come as a zip archive with a top folder.
absl::Status CheckKind(const ZipArchive& archive) {
  if (archive.Find("archive_format") != nullptr || archive.Find("archive_version") != nullptr) {
    return Refused(
        "expected weights as torch.save writes them, got an exported program (.pt2), which "
        "cannot be read");
  }
  if (archive.Find("constants.pkl") != nullptr) {
    return Refused(
        "expected weights as torch.save writes them, got a TorchScript archive, which "
        "cannot be read; save model.state_dict() instead");
  }
  if (archive.Find("data.pkl") == nullptr) {
    return Refused("expected a record 'data.pkl' in '", Printable(archive.top_folder()),
                   "', got a zip archive without: torch.save did not write it");
  }
  return absl::OkStatus();
}

absl::Status CheckStoragesAreStored(const ZipArchive& archive) {
  const std::string prefix = absl::StrCat(archive.top_folder(), "/data/");
  for (const ZipEntry& entry : archive.entries()) {
    if (entry.compressed && std::string_view(entry.name).starts_with(prefix)) {
      return Refused(Printable(entry.name),
                     ": expected an uncompressed storage, got a compressed one");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenTorchZip(File file,
                                                         const CheckpointOptions& options) {
  const absl::StatusOr<ZipArchive> archive = ZipArchive::Open(file, options.max_metadata_bytes);
  if (!archive.ok()) return archive.status();
  for (const absl::Status& checked : {CheckKind(*archive), CheckStoragesAreStored(*archive),
                                      CheckNotes(file, *archive, options.verify_crc)}) {
    if (!checked.ok()) return checked;
  }

  const ZipEntry& pickle = *archive->Find("data.pkl");
  const std::string member = Printable(pickle.name);
  absl::StatusOr<std::string> stream =
      ReadRecord(file, pickle, options.max_metadata_bytes, options.verify_crc);
  if (!stream.ok()) return InContext(member, stream.status());
  const absl::StatusOr<PickleTree> tree = ParsePickle(*std::move(stream));
  if (!tree.ok()) return InContext(member, tree.status());

  std::vector<uint32_t> crcs;
  TensorRebuilder rebuilder(*tree, [&](std::string_view key) -> absl::StatusOr<StorageDescriptor> {
    const ZipEntry* entry = archive->Find(absl::StrCat("data/", std::string(key)));
    if (entry == nullptr) {
      return Refused("expected a record '", Printable(archive->top_folder()), "/data/",
                     Printable(key), "', got none");
    }
    if (options.verify_crc) crcs.push_back(entry->crc32);
    return StorageDescriptor{
        .member = entry->name, .file_offset = entry->data_offset, .size_bytes = entry->size_bytes};
  });
  CheckpointListing listing;
  listing.path = file.path();
  if (absl::Status extracted = ExtractStateDict(*tree, rebuilder, listing); !extracted.ok()) {
    return InContext(member, extracted);
  }
  listing.storages = rebuilder.TakeStorages();
  std::vector<File> files;
  files.push_back(std::move(file));
  return std::make_unique<StoredCheckpoint>("torch.save zip", std::move(listing), std::move(files),
                                            std::move(crcs));
}

}  // namespace sconce
