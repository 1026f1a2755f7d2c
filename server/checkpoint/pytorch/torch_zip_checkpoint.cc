// The container of torch.save since PyTorch 1.6: a zip archive of uncompressed records in one top
// folder.
//
//   data.pkl            the pickled object; its tensors refer to storages by key
//   data/<key>          a storage's bytes
//   version             format version, a decimal number (or .data/version)
//   byteorder           "little" or "big", of the storages (absent in older files: little)
//   .format_version, .storage_alignment, .data/serialization_id    (newer files)
//
// TorchScript archives are the same with two things more. Their code is never looked at; their
// pickles are checked in full, for the program's sake, which PyTorch's own reader takes from them.
//
//   constants.pkl, constants/<key>    a tuple of the constants in the code
//   code/**                           compressed

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/checkpoint/archive/zip_archive.h"
#include "server/checkpoint/archive/zip_record.h"
#include "server/checkpoint/containers.h"
#include "server/checkpoint/data/stored_checkpoint.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/pickle/pickle_machine.h"
#include "server/checkpoint/pytorch/exported_program.h"
#include "server/checkpoint/pytorch/listing_builder.h"
#include "server/checkpoint/pytorch/metadata_text.h"
#include "server/checkpoint/pytorch/module_tree.h"
#include "server/checkpoint/pytorch/saved_tensor.h"
#include "server/checkpoint/pytorch/state_dict_extractor.h"
#include "server/checkpoint/pytorch/tensor_rebuilder.h"

namespace sconce {
namespace {

constexpr int64_t kLowestVersion = 1;
constexpr int64_t kHighestVersion = 10;
constexpr int64_t kMaxNoteBytes = 64;  // of the records that hold one word

// A record of one short word or number; nullopt where there is none. Trailing line ends are cut.
absl::StatusOr<std::optional<std::string>> ReadNote(const File& file, const ZipArchive& archive,
                                                    std::string_view name, bool verify_crc) {
  const ZipEntry* entry = archive.Find(name);
  if (entry == nullptr) return std::optional<std::string>();
  absl::StatusOr<std::string> text = ReadZipRecord(file, *entry, kMaxNoteBytes, verify_crc);
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
    {"byteorder", "'little' or 'big'",
     [](std::string_view text) { return text == "little" || text == "big"; }},
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
  if (archive.Find("data.pkl") == nullptr) {
    return Refused("expected a record 'data.pkl' in '", Printable(archive.top_folder()),
                   "', got a zip archive without: torch.save did not write it");
  }
  return absl::OkStatus();
}

absl::Status CheckStoragesAreStored(const ZipArchive& archive) {
  const std::string data = absl::StrCat(archive.top_folder(), "/data/");
  const std::string constants = absl::StrCat(archive.top_folder(), "/constants/");
  for (const ZipEntry& entry : archive.entries()) {
    const std::string_view name = entry.name;
    if (entry.compressed && (name.starts_with(data) || name.starts_with(constants))) {
      return Refused(Printable(name), ": expected an uncompressed storage, got a compressed one");
    }
  }
  return absl::OkStatus();
}

// The records say which versions of PyTorch write them.
const char* ProducerOf(const ZipArchive& archive) {
  if (archive.Find("constants.pkl") != nullptr) return "TorchScript";
  if (archive.Find(".format_version") != nullptr) return "PyTorch 2.7 or later";
  if (archive.Find("byteorder") != nullptr) return "PyTorch 2.1 or later";
  return "PyTorch 1.6 or later";
}

class TorchZipReader {
 public:
  TorchZipReader(const File& file, const ZipArchive& archive, const CheckpointOptions& options)
      : file_(file), archive_(archive), options_(options) {}

  absl::StatusOr<CheckpointListing> Run() {
    CheckpointListing listing;
    listing.path = file_.path();
    listing.producer = ProducerOf(archive_);
    const bool is_script = archive_.Find("constants.pkl") != nullptr;
    absl::Status read = InPickle("data", [&](const PickleTree& tree) {
      absl::Status extracted =
          Extract("data", tree, listing, [&](const PickleTree&, TensorRebuilder& made) {
            return is_script ? ExtractScriptModule(tree, made, listing)
                             : ExtractStateDict(tree, made, listing);
          });
      return extracted.ok() && is_script ? CheckScript("data", tree) : extracted;
    });
    if (read.ok() && is_script) {
      read = InPickle("constants", [&](const PickleTree& tree) {
        absl::Status extracted;
        // Freezing a module makes constants of all its tensors.
        if (listing.tensors.empty()) {
          extracted =
              Extract("constants", tree, listing, [&](const PickleTree&, TensorRebuilder& made) {
                return ExtractConstants(tree, made, listing);
              });
        }
        return extracted.ok() ? CheckScript("constants", tree) : extracted;
      });
    }
    if (!read.ok()) return read;
    return listing;
  }

  // Has `use` look at the object that was saved.
  template <typename Use>
  absl::Status ReadObject(CheckpointListing& listing, const Use& use) {
    return InPickle("data",
                    [&](const PickleTree& tree) { return Extract("data", tree, listing, use); });
  }

  // The checksums of the listing's storages; empty unless they are to be verified.
  std::vector<uint32_t> TakeCrcs() { return std::move(crcs_); }

 private:
  // Of tensors that were rebuilt. `crcs` is empty unless they are to be verified.
  struct Rebuilt {
    std::vector<StorageDescriptor> storages;
    std::vector<uint32_t> crcs;
  };

  // Has `use` look at what is in <name>.pkl.
  absl::Status InPickle(const std::string& name,
                        absl::FunctionRef<absl::Status(const PickleTree&)> use) {
    const absl::StatusOr<std::optional<std::string>> byte_order =
        ReadNote(file_, archive_, "byteorder", options_.verify_crc);
    if (!byte_order.ok()) return byte_order.status();
    big_endian_ = *byte_order == "big";
    const ZipEntry& pickle = *archive_.Find(absl::StrCat(name, ".pkl"));
    const std::string member = Printable(pickle.name);
    absl::StatusOr<std::string> stream =
        ReadZipRecord(file_, pickle, options_.max_metadata_bytes, options_.verify_crc);
    if (!stream.ok()) return InContext(member, stream.status());
    const absl::StatusOr<PickleTree> tree = ParsePickle(*std::move(stream));
    if (!tree.ok()) return InContext(member, tree.status());
    if (absl::Status used = use(*tree); !used.ok()) return InContext(member, used);
    return absl::OkStatus();
  }

  // Has `use` rebuild tensors of <name>.pkl, whose storages are the records <name>/<key>.
  template <typename Use>
  absl::StatusOr<Rebuilt> Rebuild(const std::string& name, const PickleTree& tree, const Use& use) {
    Rebuilt rebuilt;
    TensorRebuilder rebuilder(tree, [&](std::string_view key) {
      return FindStorage(absl::StrCat(name, "/"), key, rebuilt.crcs);
    });
    if (big_endian_) rebuilder.SetBigEndian();
    if (absl::Status used = use(tree, rebuilder); !used.ok()) return used;
    rebuilt.storages = rebuilder.TakeStorages();
    return rebuilt;
  }

  // The same for the listing, which has these storages then.
  template <typename Use>
  absl::Status Extract(const std::string& name, const PickleTree& tree, CheckpointListing& listing,
                       const Use& use) {
    absl::StatusOr<Rebuilt> rebuilt = Rebuild(name, tree, use);
    if (!rebuilt.ok()) return rebuilt.status();
    listing.storages = std::move(rebuilt->storages);
    crcs_ = std::move(rebuilt->crcs);
    return absl::OkStatus();
  }

  absl::Status CheckScript(const std::string& name, const PickleTree& tree) {
    return Rebuild(name, tree, CheckScriptPickle).status();
  }

  absl::StatusOr<StorageDescriptor> FindStorage(const std::string& folder, std::string_view key,
                                                std::vector<uint32_t>& crcs) {
    const ZipEntry* entry = archive_.Find(absl::StrCat(folder, std::string(key)));
    if (entry == nullptr) {
      return Refused("expected a record '", Printable(archive_.top_folder()), "/", folder,
                     Printable(key), "', got none");
    }
    if (options_.verify_crc) crcs.push_back(entry->crc32);
    return StorageDescriptor{
        .member = entry->name, .file_offset = entry->data_offset, .size_bytes = entry->size_bytes};
  }

  // Under the names that the code has for them.
  static absl::Status ExtractConstants(const PickleTree& tree, TensorRebuilder& rebuilder,
                                       CheckpointListing& listing) {
    if (tree.kind(tree.root()) != PickleKind::kTuple) {
      return Refused("expected a tuple of constants, got ", PickleKindName(tree.kind(tree.root())));
    }
    ListingBuilder builder(tree, rebuilder, listing);
    size_t number = 0;
    for (const PickleId constant : tree.Items(tree.root())) {
      const std::string name = absl::StrCat("CONSTANTS.c", number++);
      if (!rebuilder.IsTensor(constant)) continue;
      if (absl::Status added = builder.Add(name, constant); !added.ok()) return added;
    }
    return absl::OkStatus();
  }

  const File& file_;
  const ZipArchive& archive_;
  const CheckpointOptions& options_;
  bool big_endian_ = false;
  std::vector<uint32_t> crcs_;
};

absl::Status CheckArchive(const File& file, const ZipArchive& archive,
                          const CheckpointOptions& options) {
  for (const absl::Status& checked : {CheckKind(archive), CheckStoragesAreStored(archive),
                                      CheckNotes(file, archive, options.verify_crc)}) {
    if (!checked.ok()) return checked;
  }
  return absl::OkStatus();
}

// Has `use` look at the single object that was saved in a part of a file. Returns the checksums of
// the listing's storages.
template <typename Use>
absl::StatusOr<std::vector<uint32_t>> ReadSavedObject(const SavedPlace& place,
                                                      const CheckpointOptions& options,
                                                      CheckpointListing& listing, const Use& use) {
  const absl::StatusOr<ZipArchive> archive = ZipArchive::OpenSection(
      place.file, place.offset, place.size_bytes, options.max_metadata_bytes);
  if (!archive.ok()) return archive.status();
  if (absl::Status good = CheckArchive(place.file, *archive, options); !good.ok()) return good;
  TorchZipReader reader(place.file, *archive, options);
  if (absl::Status read = reader.ReadObject(listing, use); !read.ok()) return read;
  return reader.TakeCrcs();
}

}  // namespace

absl::StatusOr<SavedTensor> ReadSavedTensor(const SavedPlace& place,
                                            const CheckpointOptions& options) {
  CheckpointListing listing;
  SavedTensor saved;
  absl::StatusOr<std::vector<uint32_t>> crcs = ReadSavedObject(
      place, options, listing, [&saved](const PickleTree& tree, TensorRebuilder& rebuilder) {
        if (!rebuilder.IsTensor(tree.root())) {
          return Refused("expected a tensor, got ", tree.TypeName(tree.root()));
        }
        absl::StatusOr<TensorDescriptor> tensor = rebuilder.Rebuild(tree.root());
        if (tensor.ok()) saved.tensor = *std::move(tensor);
        return tensor.status();
      });
  if (!crcs.ok()) return crcs.status();
  saved.storages = std::move(listing.storages);
  saved.storage_crcs = *std::move(crcs);
  return saved;
}

absl::StatusOr<std::string> DescribeSavedValue(const SavedPlace& place,
                                               const CheckpointOptions& options) {
  CheckpointListing listing;
  std::string text;
  const auto read =
      ReadSavedObject(place, options, listing, [&text](const PickleTree& tree, TensorRebuilder&) {
        text = DescribeValue(tree, tree.root()).value_or(tree.TypeName(tree.root()));
        return absl::OkStatus();
      });
  if (!read.ok()) return read.status();
  return text;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenTorchZip(File file,
                                                         const CheckpointOptions& options) {
  const absl::StatusOr<ZipArchive> archive = ZipArchive::Open(file, options.max_metadata_bytes);
  if (!archive.ok()) return archive.status();
  if (archive->Find("archive_format") != nullptr) {
    return OpenExportedProgram(std::move(file), *archive, options);
  }
  if (absl::Status good = CheckArchive(file, *archive, options); !good.ok()) return good;
  TorchZipReader reader(file, *archive, options);
  absl::StatusOr<CheckpointListing> listing = reader.Run();
  if (!listing.ok()) return listing.status();
  const char* format = archive->Find("constants.pkl") != nullptr ? "TorchScript" : "torch.save zip";
  std::vector<File> files;
  files.push_back(std::move(file));
  return std::make_unique<StoredCheckpoint>(format, *std::move(listing), std::move(files),
                                            reader.TakeCrcs());
}

}  // namespace sconce
