// The container of the first versions of torch.save (0.1): a tar archive of four members.
//
//   sys_info = pickle of a dict
//   storages = count storage* views
//   storage  = pickle of (id, location, class), int64 number of elements, the elements
//   views    = pickle of a list of (id, id of the root, offset, number of elements)
//   tensors  = count tensor*
//   tensor   = pickle of (id, id of the storage, class), int32 dimensions, 4 bytes, int64 sizes,
//              int64 strides, int64 offset
//   pickle   = the object; its tensors are persistent ids
//   count    = pickle of an int
//
// All numbers are little-endian.

#include <array>
#include <charconv>
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
#include "server/checkpoint/archive/tar_archive.h"
#include "server/checkpoint/containers.h"
#include "server/checkpoint/data/stored_checkpoint.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/little_endian.h"
#include "server/checkpoint/pickle/pickle_machine.h"
#include "server/checkpoint/pickle/pickle_reader.h"
#include "server/checkpoint/pytorch/pickled_storages.h"
#include "server/checkpoint/pytorch/state_dict_extractor.h"
#include "server/checkpoint/pytorch/tensor_rebuilder.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

constexpr std::array<std::string_view, 4> kMembers = {"sys_info", "pickle", "tensors", "storages"};

class TarCheckpointReader {
 public:
  TarCheckpointReader(const File& file, const CheckpointOptions& options)
      : file_(file), metadata_bytes_left_(options.max_metadata_bytes) {}

  absl::StatusOr<CheckpointListing> Run() {
    auto members = ReadTarMembers(file_, kMembers);
    if (!members.ok()) return members.status();
    section_ = (*members)["sys_info"];
    const absl::StatusOr<PickleTree> sys_info = Next();
    if (!sys_info.ok()) return InContext("sys_info", sys_info.status());
    section_ = (*members)["storages"];
    if (absl::Status read = ReadStorages(); !read.ok()) return InContext("storages", read);
    section_ = (*members)["tensors"];
    if (absl::Status read = ReadTensors(); !read.ok()) return InContext("tensors", read);
    section_ = (*members)["pickle"];
    const absl::StatusOr<PickleTree> object = Next();
    if (!object.ok()) return InContext("pickle", object.status());

    TensorRebuilder rebuilder(*object, [&](PickleId id) { return FindTensor(*object, id); });
    CheckpointListing listing;
    listing.path = file_.path();
    listing.producer = "PyTorch 0.1";
    if (absl::Status extracted = ExtractStateDict(*object, rebuilder, listing); !extracted.ok()) {
      return InContext("pickle", extracted);
    }
    listing.storages = std::move(storages_);
    return listing;
  }

 private:
  // A storage, or the part of one that a view shows.
  struct Slice {
    int32_t storage = 0;
    DType dtype = DType::kFloat32;
    int64_t offset = 0;  // in elements
    int64_t numel = 0;
  };

  absl::StatusOr<PickleTree> Next() {
    absl::StatusOr<std::string> stream = ReadPickle(file_, section_, metadata_bytes_left_);
    if (!stream.ok()) return stream.status();
    metadata_bytes_left_ -= static_cast<int64_t>(stream->size());
    return ParsePickle(*std::move(stream));
  }

  absl::StatusOr<int64_t> NextCount(const char* what) {
    const absl::StatusOr<PickleTree> tree = Next();
    if (!tree.ok()) return tree.status();
    if (tree->kind(tree->root()) != PickleKind::kInt || tree->Int(tree->root()) < 0) {
      return Refused("expected a number of ", what, ", got ",
                     PickleKindName(tree->kind(tree->root())));
    }
    const int64_t count = tree->Int(tree->root());
    if (count > static_cast<int64_t>(kMaxTensorCount)) {
      return Refused("expected at most ", kMaxTensorCount, " ", what, ", got ", count);
    }
    return count;
  }

  // The items of a tuple of this many.
  static absl::StatusOr<absl::Span<const PickleId>> TupleOf(const PickleTree& tree, PickleId id,
                                                            size_t size) {
    if (tree.kind(id) == PickleKind::kTuple && tree.Items(id).size() == size) return tree.Items(id);
    return Refused("expected a tuple of ", size, " items, got ", PickleKindName(tree.kind(id)));
  }

  // Ids are the addresses that objects had, as ints or as decimal text.
  static absl::StatusOr<int64_t> IdOf(const PickleTree& tree, PickleId id) {
    if (tree.kind(id) == PickleKind::kInt) return tree.Int(id);
    if (const std::optional<std::string_view> text = tree.AsString(id); text.has_value()) {
      int64_t number = 0;
      const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), number);
      if (error == std::errc() && end == text->data() + text->size()) return number;
    }
    return Refused("expected a number as an id, got ", PickleKindName(tree.kind(id)));
  }

  // Fixed-size numbers of the section.
  absl::StatusOr<std::vector<int64_t>> TakeNumbers(size_t count) {
    const auto size = static_cast<int64_t>(count * sizeof(int64_t));
    if (size > section_.end - section_.offset) {
      return Refused("expected ", count, " numbers of 8 bytes, got the end after ",
                     section_.end - section_.offset, " bytes");
    }
    std::vector<int64_t> numbers(count);
    absl::Status read =
        ReadFrom(file_, section_.offset, {reinterpret_cast<std::byte*>(numbers.data()), count * 8});
    if (!read.ok()) return read;
    section_.offset += size;
    return numbers;
  }

  absl::Status CheckEnd() const {
    if (section_.offset == section_.end) return absl::OkStatus();
    return Refused("expected nothing more, got ", section_.end - section_.offset, " bytes");
  }

  absl::Status ReadStorages() {
    const absl::StatusOr<int64_t> count = NextCount("storages");
    if (!count.ok()) return count.status();
    for (int64_t i = 0; i < *count; ++i) {
      absl::Status read = ReadStorage();
      if (!read.ok()) return InContext(absl::StrCat("storage ", i), read);
    }
    const absl::StatusOr<PickleTree> views = Next();
    if (!views.ok()) return InContext("views", views.status());
    if (views->kind(views->root()) != PickleKind::kList) {
      return Refused("views: expected a list, got ", PickleKindName(views->kind(views->root())));
    }
    for (const PickleId view : views->Items(views->root())) {
      if (absl::Status added = AddView(*views, view); !added.ok()) return InContext("views", added);
    }
    return CheckEnd();
  }

  absl::Status ReadStorage() {
    const absl::StatusOr<PickleTree> tree = Next();
    if (!tree.ok()) return tree.status();
    const auto items = TupleOf(*tree, tree->root(), 3);
    if (!items.ok()) return items.status();
    const absl::StatusOr<int64_t> id = IdOf(*tree, (*items)[0]);
    if (!id.ok()) return id.status();
    const absl::StatusOr<StorageType> type = StorageTypeOf(*tree, (*items)[2]);
    if (!type.ok()) return type.status();
    if (!type->has_value())
      return Refused("expected a storage class with a type, got an untyped one");
    const absl::StatusOr<std::vector<int64_t>> numel = TakeNumbers(1);
    if (!numel.ok()) return numel.status();
    const int64_t elements = (*numel)[0];
    if (elements < 0) return Refused("expected 0 or more elements, got ", elements);
    const absl::StatusOr<int64_t> bytes = CountBytes(elements, **type);
    if (!bytes.ok()) return bytes.status();
    if (*bytes > section_.end - section_.offset) {
      return Refused("expected ", *bytes, " bytes for ", elements, " elements, got the end after ",
                     section_.end - section_.offset);
    }
    const Slice slice{
        .storage = static_cast<int32_t>(storages_.size()), .dtype = **type, .numel = elements};
    storages_.push_back({.member = absl::StrCat("storages/", *id),
                         .file_offset = section_.offset,
                         .size_bytes = *bytes});
    section_.offset += *bytes;
    if (slices_.emplace(*id, slice).second) return absl::OkStatus();
    return Refused("expected each id once, got ", *id, " twice");
  }

  absl::Status AddView(const PickleTree& tree, PickleId view) {
    const auto items = TupleOf(tree, view, 4);
    if (!items.ok()) return items.status();
    std::array<int64_t, 4> numbers;
    for (size_t i = 0; i < numbers.size(); ++i) {
      const absl::StatusOr<int64_t> number = IdOf(tree, (*items)[i]);
      if (!number.ok()) return number.status();
      numbers[i] = *number;
    }
    const auto [id, root, offset, numel] = numbers;
    const auto found = slices_.find(root);
    if (found == slices_.end()) return Refused("expected the id of a storage, got ", root);
    Slice slice = found->second;
    if (offset < 0 || numel < 0 || offset > slice.numel || numel > slice.numel - offset) {
      return Refused("expected a view inside the storage's ", slice.numel, " elements, got ", numel,
                     " elements from ", offset);
    }
    slice.offset += offset;
    slice.numel = numel;
    if (slices_.emplace(id, slice).second) return absl::OkStatus();
    return Refused("expected each id once, got ", id, " twice");
  }

  absl::Status ReadTensors() {
    const absl::StatusOr<int64_t> count = NextCount("tensors");
    if (!count.ok()) return count.status();
    for (int64_t i = 0; i < *count; ++i) {
      if (absl::Status read = ReadTensor(); !read.ok()) {
        return InContext(absl::StrCat("tensor ", i), read);
      }
    }
    return CheckEnd();
  }

  absl::Status ReadTensor() {
    const absl::StatusOr<PickleTree> tree = Next();
    if (!tree.ok()) return tree.status();
    const auto items = TupleOf(*tree, tree->root(), 3);
    if (!items.ok()) return items.status();
    const absl::StatusOr<int64_t> id = IdOf(*tree, (*items)[0]);
    if (!id.ok()) return id.status();
    const absl::StatusOr<int64_t> storage_id = IdOf(*tree, (*items)[1]);
    if (!storage_id.ok()) return storage_id.status();
    const auto slice = slices_.find(*storage_id);
    if (slice == slices_.end()) return Refused("expected the id of a storage, got ", *storage_id);

    // The number of dimensions takes the lower half of 8 bytes.
    const absl::StatusOr<std::vector<int64_t>> head = TakeNumbers(1);
    if (!head.ok()) return head.status();
    const auto rank = static_cast<int32_t>((*head)[0] & 0xFFFFFFFF);
    if (rank < 0 || rank > static_cast<int32_t>(kMaxTensorRank)) {
      return Refused("expected 0 to ", kMaxTensorRank, " dimensions, got ", rank);
    }
    const auto dimensions = static_cast<size_t>(rank);
    const absl::StatusOr<std::vector<int64_t>> numbers = TakeNumbers(2 * dimensions + 1);
    if (!numbers.ok()) return numbers.status();
    const auto middle = numbers->begin() + rank;
    TensorDescriptor tensor;
    tensor.dtype = slice->second.dtype;
    tensor.storage = slice->second.storage;
    tensor.shape.assign(numbers->begin(), middle);
    tensor.strides.assign(middle, middle + rank);
    tensor.offset = numbers->back();
    // CountBytes was OK for the whole storage.
    absl::Status inside = CheckTensorBounds(tensor, slice->second.numel * DTypeSize(tensor.dtype));
    if (!inside.ok()) return inside;
    if (tensor.num_elements() > 0) tensor.offset += slice->second.offset;
    if (tensors_.emplace(*id, std::move(tensor)).second) return absl::OkStatus();
    return Refused("expected each id once, got ", *id, " twice");
  }

  absl::StatusOr<TensorDescriptor> FindTensor(const PickleTree& tree, PickleId persistent_id) {
    const absl::StatusOr<int64_t> id = IdOf(tree, persistent_id);
    if (!id.ok()) return id.status();
    const auto found = tensors_.find(*id);
    if (found == tensors_.end()) return Refused("expected the id of a tensor, got ", *id);
    return found->second;
  }

  const File& file_;
  FileSection section_;
  int64_t metadata_bytes_left_;
  std::vector<StorageDescriptor> storages_;
  std::map<int64_t, Slice> slices_;  // storages and views by id
  std::map<int64_t, TensorDescriptor> tensors_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenTorchTar(File file,
                                                         const CheckpointOptions& options) {
  absl::StatusOr<CheckpointListing> listing = TarCheckpointReader(file, options).Run();
  if (!listing.ok()) return listing.status();
  std::vector<File> files;
  files.push_back(std::move(file));
  return std::make_unique<StoredCheckpoint>("torch.save tar", *std::move(listing), std::move(files),
                                            std::vector<uint32_t>());
}

}  // namespace sconce
