// The format of torch.save before PyTorch 1.6: pickles one after the other, then raw storages.
//
//   file     = magic protocol sys_info object keys storage*
//   magic    = pickle of 0x1950a86a20f9469cfc6c
//   protocol = pickle of 1001
//   sys_info = pickle of {'protocol_version': 1001, 'little_endian': bool, 'type_sizes': {...}}
//   object   = pickle; its tensors refer to storages by key
//   keys     = pickle of the list of all keys, sorted
//   storage  = int64 number of elements, the elements; in the order of `keys`, not aligned
//
// Numbers and elements are little-endian even where sys_info says that a big-endian machine wrote
// them: PyTorch turns them around when it writes.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "server/base/printable.h"
#include "server/checkpoint/containers.h"
#include "server/checkpoint/data/stored_checkpoint.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/little_endian.h"
#include "server/checkpoint/pickle/pickle_machine.h"
#include "server/checkpoint/pickle/pickle_reader.h"
#include "server/checkpoint/pytorch/pickled_storages.h"
#include "server/checkpoint/pytorch/state_dict_extractor.h"
#include "server/checkpoint/pytorch/tensor_rebuilder.h"

namespace sconce {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kMagic = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"sv;
constexpr int64_t kProtocol = 1001;
constexpr int64_t kCountBytes = sizeof(int64_t);

using References = std::map<std::string_view, StorageReference>;

class LegacyReader {
 public:
  LegacyReader(const File& file, const CheckpointOptions& options)
      : file_(file),
        section_{.offset = 0, .end = file.size_bytes()},
        metadata_bytes_left_(options.max_metadata_bytes) {}

  absl::StatusOr<CheckpointListing> Run() {
    if (absl::Status known = CheckPreamble(); !known.ok()) return known;
    const absl::StatusOr<PickleTree> object = Next("object");
    if (!object.ok()) return object.status();
    const absl::StatusOr<PickleTree> keys = Next("storage keys");
    if (!keys.ok()) return keys.status();
    const absl::StatusOr<References> references = CollectReferences(*object);
    if (!references.ok()) return InContext("object", references.status());
    absl::Status placed = PlaceStorages(*keys, *references);
    if (!placed.ok()) return InContext("storage keys", placed);

    TensorRebuilder rebuilder(*object,
                              [&](std::string_view key) -> absl::StatusOr<StorageDescriptor> {
                                const auto found = storages_.find(key);
                                if (found != storages_.end()) return found->second;
                                return Refused("expected a key from the list of storages");
                              });
    CheckpointListing listing;
    listing.path = file_.path();
    listing.producer = is_little_endian_
                           ? "PyTorch, in its format from before 1.6"
                           : "PyTorch on a big-endian machine, in its format from before 1.6";
    if (absl::Status extracted = ExtractStateDict(*object, rebuilder, listing); !extracted.ok()) {
      return InContext("object", extracted);
    }
    listing.storages = rebuilder.TakeStorages();
    return listing;
  }

 private:
  absl::StatusOr<PickleTree> Next(const char* what) {
    absl::StatusOr<std::string> stream = ReadPickle(file_, section_, metadata_bytes_left_);
    if (!stream.ok()) return InContext(what, stream.status());
    metadata_bytes_left_ -= static_cast<int64_t>(stream->size());
    absl::StatusOr<PickleTree> tree = ParsePickle(*std::move(stream));
    if (!tree.ok()) return InContext(what, tree.status());
    return tree;
  }

  absl::Status CheckPreamble() {
    const absl::StatusOr<PickleTree> magic = Next("magic number");
    if (!magic.ok()) return magic.status();
    if (magic->kind(magic->root()) != PickleKind::kBigInt || magic->Text(magic->root()) != kMagic) {
      return Refused("magic number: expected 0x1950a86a20f9469cfc6c, got ",
                     magic->kind(magic->root()) == PickleKind::kBigInt
                         ? "another number"
                         : PickleKindName(magic->kind(magic->root())));
    }
    const absl::StatusOr<PickleTree> protocol = Next("protocol version");
    if (!protocol.ok()) return protocol.status();
    const PickleId number = protocol->root();
    if (protocol->kind(number) != PickleKind::kInt || protocol->Int(number) != kProtocol) {
      return Refused("protocol version: expected ", kProtocol, ", got ",
                     protocol->kind(number) == PickleKind::kInt
                         ? absl::StrCat(protocol->Int(number))
                         : PickleKindName(protocol->kind(number)));
    }
    const absl::StatusOr<PickleTree> sys_info = Next("sys_info");
    if (!sys_info.ok()) return sys_info.status();
    if (sys_info->kind(sys_info->root()) != PickleKind::kDict) {
      return Refused("sys_info: expected a dict, got ",
                     PickleKindName(sys_info->kind(sys_info->root())));
    }
    const PickleId little = sys_info->Lookup(sys_info->root(), "little_endian");
    is_little_endian_ = little == kNoPickle || sys_info->kind(little) != PickleKind::kBool ||
                        sys_info->Bool(little);
    return absl::OkStatus();
  }

  // All storages of the object, those beside the weights included: the place of each in the file
  // depends on the sizes of all before it.
  static absl::StatusOr<References> CollectReferences(const PickleTree& tree) {
    References references;
    for (PickleId id = 0; id < tree.size(); ++id) {
      if (tree.kind(id) != PickleKind::kPersistent) continue;
      absl::StatusOr<StorageReference> reference = ParseStorageReference(tree, id);
      if (!reference.ok()) return reference.status();
      const auto [known, is_new] = references.emplace(reference->key, *reference);
      if (is_new) continue;
      if (absl::Status same = CheckSameStorage(known->second, *reference); !same.ok()) {
        return InContext(absl::StrCat("storage '", Printable(reference->key), "'"), same);
      }
    }
    return references;
  }

  absl::Status PlaceStorages(const PickleTree& keys, const References& references) {
    if (keys.kind(keys.root()) != PickleKind::kList) {
      return Refused("expected a list of keys, got ", PickleKindName(keys.kind(keys.root())));
    }
    const absl::Span<const PickleId> items = keys.Items(keys.root());
    if (items.size() != references.size()) {
      return Refused("expected the keys of the object's ", references.size(), " storages, got ",
                     items.size(), " keys");
    }
    for (const PickleId item : items) {
      const std::optional<std::string_view> key = keys.AsString(item);
      const auto reference = key.has_value() ? references.find(*key) : references.end();
      if (reference == references.end()) {
        return Refused("expected the key of a storage of the object, got ",
                       key.has_value() ? absl::StrCat("'", Printable(*key), "'")
                                       : PickleKindName(keys.kind(item)));
      }
      absl::Status placed = PlaceStorage(reference->second);
      if (!placed.ok()) return InContext(absl::StrCat("storage '", Printable(*key), "'"), placed);
    }
    if (section_.offset == section_.end) return absl::OkStatus();
    return Refused("expected the end of the file after the last storage, got ",
                   section_.end - section_.offset, " bytes more");
  }

  absl::Status PlaceStorage(const StorageReference& reference) {
    int64_t remaining = section_.end - section_.offset;
    if (remaining < kCountBytes) {
      return Refused("expected a count of elements, got the end of the file after ", remaining,
                     " bytes more");
    }
    std::byte bytes[kCountBytes];
    absl::Status read = ReadFrom(file_, section_.offset, absl::MakeSpan(bytes));
    if (!read.ok()) return read;
    const auto count = LoadLittleEndian<int64_t>(bytes);
    if (count != reference.numel) {
      return Refused("expected a count of ", reference.numel, " elements before the data, got ",
                     count);
    }
    remaining -= kCountBytes;
    section_.offset += kCountBytes;
    if (reference.size_bytes > remaining) {
      return Refused("expected ", reference.size_bytes, " bytes, got the end of the file after ",
                     remaining);
    }
    const StorageDescriptor storage{.member = std::string(reference.key),
                                    .file_offset = section_.offset,
                                    .size_bytes = reference.size_bytes};
    section_.offset += reference.size_bytes;
    if (storages_.emplace(reference.key, storage).second) return absl::OkStatus();
    return Refused("expected each key once, got it twice");
  }

  const File& file_;
  FileSection section_;
  int64_t metadata_bytes_left_;
  bool is_little_endian_ = true;
  std::map<std::string_view, StorageDescriptor> storages_;  // keys are views of the object's stream
};

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenLegacyTorch(File file,
                                                            const CheckpointOptions& options) {
  absl::StatusOr<CheckpointListing> listing = LegacyReader(file, options).Run();
  if (!listing.ok()) return listing.status();
  std::vector<File> files;
  files.push_back(std::move(file));
  return std::make_unique<StoredCheckpoint>("torch.save before 1.6", *std::move(listing),
                                            std::move(files), std::vector<uint32_t>());
}

}  // namespace sconce
