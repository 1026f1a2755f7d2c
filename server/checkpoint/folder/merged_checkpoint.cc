#include "server/checkpoint/folder/merged_checkpoint.h"

#include <algorithm>
#include <limits>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/base/sha256.h"
#include "server/checkpoint/data/extent_reader.h"
#include "server/checkpoint/data/manifest.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

constexpr size_t kMaxMergedEntries = 1024;

using TensorPointer = std::shared_ptr<const TensorDescriptor>;

TensorDescriptor Renumbered(const TensorDescriptor& tensor, int32_t shift);

TensorPointer Renumbered(const TensorPointer& tensor, int32_t shift) {
  if (tensor == nullptr) return nullptr;
  return std::make_shared<const TensorDescriptor>(Renumbered(*tensor, shift));
}

// The tensor with `shift` added to the numbers of its storages. What it is described by (scales,
// indices) is never itself described by tensors.
TensorDescriptor Renumbered(const TensorDescriptor& tensor, int32_t shift) {
  TensorDescriptor moved = tensor;
  if (moved.storage != kNoStorage) moved.storage += shift;
  if (moved.quantizer.has_value()) {
    moved.quantizer->scales = Renumbered(moved.quantizer->scales, shift);
    moved.quantizer->zero_points = Renumbered(moved.quantizer->zero_points, shift);
  }
  if (moved.sparse.has_value()) {
    moved.sparse->indices = Renumbered(moved.sparse->indices, shift);
    moved.sparse->compressed_indices = Renumbered(moved.sparse->compressed_indices, shift);
    moved.sparse->values = Renumbered(moved.sparse->values, shift);
  }
  if (moved.chunks != nullptr) {
    auto chunks = std::make_shared<std::vector<TensorChunk>>(*moved.chunks);
    for (TensorChunk& chunk : *chunks) chunk.storage += shift;
    moved.chunks = std::move(chunks);
  }
  return moved;
}

// The number of a storage that the tensor's bytes lie in; kNoStorage if there is none.
int32_t AnyStorage(const TensorDescriptor& tensor) {
  if (tensor.chunks != nullptr && !tensor.chunks->empty()) return tensor.chunks->front().storage;
  return tensor.storage;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> MergedCheckpoint::Make(
    std::string format, const std::string& path, std::vector<File> others,
    std::vector<std::unique_ptr<Checkpoint>> parts, std::vector<MetadataEntry> metadata) {
  CheckpointListing listing;
  listing.path = path;
  listing.producer = parts.front()->producer();
  listing.wrapper = parts.front()->wrapper();
  listing.metadata = std::move(metadata);
  for (const File& file : others) listing.files.push_back({file.path(), file.fingerprint()});

  std::vector<int32_t> first_storages;
  std::set<std::string_view> names;
  std::set<std::pair<std::string_view, std::string_view>> known;
  for (const std::unique_ptr<Checkpoint>& part : parts) {
    const auto where = [&part] { return Printable(part->path()); };
    if (part->wrapper() != listing.wrapper) {
      return InContext(where(), Refused("expected tensors under '", Printable(listing.wrapper),
                                        "' as in the other parts, got them under '",
                                        Printable(part->wrapper()), "'"));
    }
    if (listing.tensors.size() + part->tensors().size() > kMaxTensorCount ||
        listing.storages.size() + part->storages().size() >
            static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
      return Refused("expected at most ", kMaxTensorCount, " tensors, got more");
    }
    const auto first_file = static_cast<int32_t>(listing.files.size());
    const auto first_storage = static_cast<int32_t>(listing.storages.size());
    first_storages.push_back(first_storage);
    listing.files.insert(listing.files.end(), part->files().begin(), part->files().end());
    for (StorageDescriptor storage : part->storages()) {
      storage.file += first_file;
      listing.storages.push_back(std::move(storage));
    }
    for (const TensorDescriptor& tensor : part->tensors()) {
      if (!names.insert(tensor.name).second) {
        return InContext(where(),
                         Refused("tensor '", Printable(tensor.name),
                                 "': expected each name once, got it in another part too"));
      }
      listing.tensors.push_back(Renumbered(tensor, first_storage));
    }
    listing.has_module_versions |= part->has_module_versions();
    listing.module_versions.insert(part->module_versions().begin(), part->module_versions().end());
    listing.non_tensors.insert(listing.non_tensors.end(), part->non_tensors().begin(),
                               part->non_tensors().end());
    listing.modules.insert(listing.modules.end(), part->modules().begin(), part->modules().end());
    for (const MetadataEntry& entry : part->metadata()) {
      if (listing.metadata.size() >= kMaxMergedEntries) break;
      // Shards repeat one another's.
      if (known.insert({entry.name, entry.value}).second) listing.metadata.push_back(entry);
    }
  }
  return std::unique_ptr<Checkpoint>(new MergedCheckpoint(std::move(format), std::move(listing),
                                                          std::move(others), std::move(parts),
                                                          std::move(first_storages)));
}

MergedCheckpoint::MergedCheckpoint(std::string format, CheckpointListing listing,
                                   std::vector<File> others,
                                   std::vector<std::unique_ptr<Checkpoint>> parts,
                                   std::vector<int32_t> first_storages)
    : Checkpoint(std::move(listing)),
      format_(std::move(format)),
      others_(std::move(others)),
      parts_(std::move(parts)),
      first_storages_(std::move(first_storages)) {}

size_t MergedCheckpoint::PartOf(const TensorDescriptor& tensor) const {
  const int32_t storage = AnyStorage(tensor);
  // The last part whose first storage is not beyond. A sparse tensor has no storage of its own, and
  // is refused by whichever part is asked.
  const auto after = std::upper_bound(first_storages_.begin(), first_storages_.end(), storage);
  if (after == first_storages_.begin()) return 0;
  return static_cast<size_t>(after - first_storages_.begin()) - 1;
}

absl::Status MergedCheckpoint::ReadRange(const TensorDescriptor& tensor, int64_t offset_bytes,
                                         absl::Span<std::byte> destination) const {
  const size_t part = PartOf(tensor);
  return parts_[part]->ReadRange(Renumbered(tensor, -first_storages_[part]), offset_bytes,
                                 destination);
}

absl::Status MergedCheckpoint::ReadTensors(absl::Span<const TensorRequest> requests,
                                           const ReadOptions& options) const {
  std::vector<std::vector<size_t>> by_part(parts_.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    by_part[PartOf(*requests[i].tensor)].push_back(i);
  }
  for (size_t part = 0; part < parts_.size(); ++part) {
    const std::vector<size_t>& numbers = by_part[part];
    if (numbers.empty()) continue;
    std::vector<TensorDescriptor> tensors;
    tensors.reserve(numbers.size());
    std::vector<TensorRequest> own;
    own.reserve(numbers.size());
    for (const size_t number : numbers) {
      tensors.push_back(Renumbered(*requests[number].tensor, -first_storages_[part]));
      own.push_back({.tensor = &tensors.back(), .destination = requests[number].destination});
    }
    ReadOptions own_options = options;
    if (options.on_piece) {
      own_options.on_piece = [&](size_t request, absl::Span<const std::byte> piece) {
        options.on_piece(numbers[request], piece);
      };
    }
    absl::Status read = parts_[part]->ReadTensors(own, own_options);
    if (!read.ok()) return read;
  }
  return absl::OkStatus();
}

std::optional<FilePlace> MergedCheckpoint::PlaceOf(const TensorDescriptor& tensor) const {
  const size_t part = PartOf(tensor);
  return parts_[part]->PlaceOf(Renumbered(tensor, -first_storages_[part]));
}

absl::Status MergedCheckpoint::UseManifests() {
  // No read of a tensor comes by these files, so that they are verified at once.
  for (const File& file : others_) {
    const absl::StatusOr<Sha256Digest> expected = ReadManifestOf(file.path());
    if (!expected.ok()) return expected.status();
    Sha256Digest digest;
    if (absl::Status read = ReadExtentsAndHash(file, {}, nullptr, &digest); !read.ok()) return read;
    absl::Status same = CheckDigest(file.path(), *expected, digest);
    if (!same.ok()) return same;
  }
  for (const std::unique_ptr<Checkpoint>& part : parts_) {
    if (absl::Status used = UseManifestsOf(*part); !used.ok()) return used;
  }
  return absl::OkStatus();
}

absl::Status MergedCheckpoint::CheckUnchanged() const {
  for (const File& file : others_) {
    if (absl::Status unchanged = file.CheckUnchanged(); !unchanged.ok()) return unchanged;
  }
  for (const std::unique_ptr<Checkpoint>& part : parts_) {
    if (absl::Status unchanged = part->CheckUnchanged(); !unchanged.ok()) return unchanged;
  }
  return absl::OkStatus();
}

}  // namespace sconce
