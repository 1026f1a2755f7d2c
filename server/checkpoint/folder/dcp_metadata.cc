#include "server/checkpoint/folder/dcp_metadata.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "server/base/printable.h"
#include "server/base/utf8.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/folder/shard_index.h"
#include "server/checkpoint/pickle/pickle_machine.h"
#include "server/checkpoint/pickle/pickle_value.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

// The classes have five fields at most.
constexpr size_t kMaxFields = 2 * 16;
// Of a name.
constexpr size_t kMaxTextBytes = 4096;
// Chunks of all tensors together.
constexpr size_t kMaxChunks = size_t{1} << 20;

class Reader {
 public:
  explicit Reader(const PickleTree& tree) : tree_(tree) {}

  absl::StatusOr<DcpMetadata> Run() {
    const PickleId root = tree_.root();
    absl::StatusOr<PickleId> state_dict = DictOf(root, "Metadata", "state_dict_metadata");
    if (!state_dict.ok()) return state_dict.status();
    absl::StatusOr<PickleId> storage = DictOf(root, "Metadata", "storage_data");
    if (!storage.ok()) return storage.status();
    if (absl::Status read = ReadStorageData(*storage); !read.ok()) return read;
    ReadPaths(Field(root, "planner_data"));
    const PickleId version = Field(root, "version");
    if (version != kNoPickle && tree_.AsString(version).has_value()) {
      metadata_.version = Printable(*tree_.AsString(version), 40);
    }
    if (absl::Status read = ReadStateDict(*state_dict); !read.ok()) return read;
    return std::move(metadata_);
  }

 private:
  // A saved object's key: the number of its name, and where in the tensor it is placed; nullopt for
  // what is no tensor.
  using Key = std::pair<size_t, std::optional<std::vector<int64_t>>>;

  // Whether the value is an object of this class of torch.distributed, or what takes its place.
  bool IsObject(PickleId id, std::string_view name) const {
    if (tree_.kind(id) != PickleKind::kCall) return false;
    const PickleId callable = tree_.Callable(id);
    if (tree_.kind(callable) != PickleKind::kGlobal) return false;
    const PickleTree::Global global = tree_.GlobalName(callable);
    return global.name == name && global.module.starts_with("torch.distributed");
  }

  // An attribute of an object; kNoPickle where it has none of this name.
  PickleId Field(PickleId object, std::string_view name) const {
    const PickleId state = tree_.State(object);
    if (state == kNoPickle || tree_.kind(state) != PickleKind::kDict) return kNoPickle;
    if (tree_.KeysAndValues(state).size() > kMaxFields) return kNoPickle;
    return tree_.Lookup(state, name);
  }

  absl::StatusOr<PickleId> DictOf(PickleId object, const char* type, const char* name) const {
    if (!IsObject(object, type)) {
      return Refused("expected an object of torch.distributed.checkpoint's class ", type, ", got ",
                     tree_.TypeName(object));
    }
    const PickleId dict = Field(object, name);
    if (dict == kNoPickle || tree_.kind(dict) != PickleKind::kDict) {
      return Refused("expected a dict as ", name, ", got ",
                     dict == kNoPickle ? "none" : PickleKindName(tree_.kind(dict)));
    }
    return dict;
  }

  absl::StatusOr<int64_t> Integer(PickleId id, const char* what) const {
    if (id == kNoPickle || tree_.kind(id) != PickleKind::kInt || tree_.Int(id) < 0) {
      return Refused("expected a number of 0 or more as ", what, ", got ",
                     id == kNoPickle ? "none" : tree_.TypeName(id));
    }
    return tree_.Int(id);
  }

  // torch.Size((2, 3)), or what has the numbers themselves.
  absl::StatusOr<std::vector<int64_t>> Sizes(PickleId id, const char* what) const {
    if (id != kNoPickle && tree_.kind(id) == PickleKind::kCall &&
        tree_.IsGlobal(tree_.Callable(id), "torch", "Size")) {
      const absl::Span<const PickleId> arguments = tree_.Items(tree_.Arguments(id));
      id = arguments.size() == 1 ? arguments[0] : kNoPickle;
    }
    if (id == kNoPickle ||
        (tree_.kind(id) != PickleKind::kTuple && tree_.kind(id) != PickleKind::kList)) {
      return Refused("expected a torch.Size as ", what, ", got ",
                     id == kNoPickle ? "none" : tree_.TypeName(id));
    }
    const absl::Span<const PickleId> items = tree_.Items(id);
    if (items.size() > kMaxTensorRank) {
      return Refused("expected at most ", kMaxTensorRank, " dimensions as ", what, ", got ",
                     items.size());
    }
    std::vector<int64_t> sizes;
    for (const PickleId item : items) {
      const absl::StatusOr<int64_t> size = Integer(item, what);
      if (!size.ok()) return size.status();
      sizes.push_back(*size);
    }
    return sizes;
  }

  // The number of a text, the same for equal texts. A text that is referred to often is compared
  // once.
  absl::StatusOr<size_t> NumberOf(PickleId id, const char* what) {
    if (id == kNoPickle || !tree_.AsString(id).has_value()) {
      return Refused("expected a string as ", what, ", got ",
                     id == kNoPickle ? "none" : tree_.TypeName(id));
    }
    const auto known = number_of_id_.find(id);
    if (known != number_of_id_.end()) return known->second;
    const size_t number =
        number_of_text_.try_emplace(*tree_.AsString(id), number_of_text_.size()).first->second;
    number_of_id_.emplace(id, number);
    return number;
  }

  absl::Status ReadStorageData(PickleId dict) {
    const absl::Span<const PickleId> items = tree_.KeysAndValues(dict);
    for (size_t i = 0; i + 1 < items.size(); i += 2) {
      const std::string where = absl::StrCat("storage_data: entry ", i / 2);
      if (absl::Status read = ReadStorageEntry(items[i], items[i + 1]); !read.ok()) {
        return InContext(where, read);
      }
    }
    return CheckApart();
  }

  absl::Status ReadStorageEntry(PickleId index, PickleId info) {
    if (!IsObject(index, "MetadataIndex") || !IsObject(info, "_StorageInfo")) {
      return Refused("expected a MetadataIndex and a _StorageInfo, got ", tree_.TypeName(index),
                     " and ", tree_.TypeName(info));
    }
    const absl::StatusOr<size_t> name = NumberOf(Field(index, "fqn"), "fqn");
    if (!name.ok()) return name.status();
    Key key = {*name, std::nullopt};
    const PickleId position = Field(index, "offset");
    if (position != kNoPickle && tree_.kind(position) != PickleKind::kNone) {
      absl::StatusOr<std::vector<int64_t>> sizes = Sizes(position, "offset");
      if (!sizes.ok()) return sizes.status();
      key.second = *std::move(sizes);
    }
    const PickleId transforms = Field(info, "transform_descriptors");
    if (transforms != kNoPickle && tree_.kind(transforms) != PickleKind::kNone) {
      return Refused(
          "expected data as it was saved, got data that was transformed, perhaps "
          "compressed, on its way to the file");
    }
    const absl::StatusOr<size_t> file = FileNumber(Field(info, "relative_path"));
    if (!file.ok()) return file.status();
    const absl::StatusOr<int64_t> offset = Integer(Field(info, "offset"), "offset");
    if (!offset.ok()) return offset.status();
    const absl::StatusOr<int64_t> length = Integer(Field(info, "length"), "length");
    if (!length.ok()) return length.status();
    if (*length == 0) return Refused("expected a length of 1 or more, got 0");
    int64_t end;
    if (__builtin_add_overflow(*offset, *length, &end)) {
      return Refused("expected an end within 63 bits, got ", *length, " bytes at byte ", *offset);
    }
    const DcpPlace place{.file = *file, .offset = *offset, .size_bytes = *length};
    if (!places_.emplace(std::move(key), place).second) {
      return Refused("expected each object once, got one twice");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<size_t> FileNumber(PickleId id) {
    const absl::StatusOr<size_t> text = NumberOf(id, "relative_path");
    if (!text.ok()) return text.status();
    const auto [known, is_new] = file_of_text_.try_emplace(*text, metadata_.files.size());
    if (!is_new) return known->second;
    const std::string_view name = *tree_.AsString(id);
    if (name.size() > kMaxTextBytes) {
      return Refused("expected a file's name of at most ", kMaxTextBytes, " bytes, got ",
                     name.size());
    }
    if (metadata_.files.size() == kMaxShards) {
      return Refused("expected at most ", kMaxShards, " files, got more");
    }
    metadata_.files.emplace_back(name);
    return known->second;
  }

  // Two objects in one place would let a small folder describe work without end.
  absl::Status CheckApart() const {
    std::vector<std::pair<size_t, std::pair<int64_t, int64_t>>> extents;
    extents.reserve(places_.size());
    for (const auto& [key, place] : places_) {
      extents.push_back({place.file, {place.offset, place.offset + place.size_bytes}});
    }
    std::sort(extents.begin(), extents.end());
    for (size_t i = 1; i < extents.size(); ++i) {
      if (extents[i].first == extents[i - 1].first &&
          extents[i].second.first < extents[i - 1].second.second) {
        return Refused("storage_data: expected objects one after the other in ",
                       Printable(metadata_.files[extents[i].first]),
                       ", got overlapping ones at bytes ", extents[i - 1].second.first, " and ",
                       extents[i].second.first);
      }
    }
    return absl::OkStatus();
  }

  // {fqn: (key or index, ...)}. A hint: what is odd in it is passed over.
  void ReadPaths(PickleId planner_data) {
    if (planner_data == kNoPickle || tree_.kind(planner_data) != PickleKind::kDict) return;
    const absl::Span<const PickleId> items = tree_.KeysAndValues(planner_data);
    for (size_t i = 0; i + 1 < items.size(); i += 2) {
      if (!tree_.AsString(items[i]).has_value() || tree_.kind(items[i + 1]) != PickleKind::kTuple) {
        continue;
      }
      const absl::StatusOr<size_t> name = NumberOf(items[i], "fqn");
      if (name.ok()) paths_.insert_or_assign(*name, items[i + 1]);
    }
  }

  std::vector<std::string> PathOf(size_t name, std::string_view fqn) const {
    std::vector<std::string> path;
    const auto found = paths_.find(name);
    // The name is the path's parts with dots between them, so a longer path belongs to another.
    size_t left = fqn.size();
    const absl::Span<const PickleId> parts =
        found == paths_.end() ? absl::Span<const PickleId>() : tree_.Items(found->second);
    for (const PickleId part : parts) {
      const std::optional<std::string_view> key = tree_.AsString(part);
      const std::string text = key.has_value() && key->size() <= left ? std::string(*key)
                               : tree_.kind(part) == PickleKind::kInt
                                   ? absl::StrCat(tree_.Int(part))
                                   : "";
      if (text.empty() || text.size() > left) {
        path.clear();
        break;
      }
      left -= text.size();
      path.push_back(text);
    }
    if (path.empty()) path.emplace_back(fqn);
    return path;
  }

  absl::Status ReadStateDict(PickleId dict) {
    const absl::Span<const PickleId> items = tree_.KeysAndValues(dict);
    if (items.size() / 2 > kMaxTensorCount) {
      return Refused("expected at most ", kMaxTensorCount, " entries, got ", items.size() / 2);
    }
    for (size_t i = 0; i + 1 < items.size(); i += 2) {
      const absl::StatusOr<size_t> name = NumberOf(items[i], "a key of state_dict_metadata");
      if (!name.ok()) return name.status();
      const std::string_view fqn = *tree_.AsString(items[i]);
      const std::string where = absl::StrCat("tensor '", Printable(fqn), "'");
      if (fqn.size() > kMaxTextBytes || !IsUtf8(fqn)) {
        return InContext(
            where, Refused("expected a name of at most ", kMaxTextBytes, " bytes in valid UTF-8"));
      }
      if (!names_.insert(*name).second) {
        return InContext(where, Refused("expected each name once, got it twice"));
      }
      DcpEntry entry;
      entry.fqn = std::string(fqn);
      entry.path = PathOf(*name, fqn);
      if (IsObject(items[i + 1], "BytesStorageMetadata")) {
        const auto place = places_.find({*name, std::nullopt});
        if (place != places_.end()) entry.value = place->second;
      } else {
        absl::StatusOr<DcpTensor> tensor = ReadTensor(*name, items[i + 1]);
        if (!tensor.ok()) return InContext(where, tensor.status());
        entry.tensor = *std::move(tensor);
      }
      metadata_.entries.push_back(std::move(entry));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<DcpTensor> ReadTensor(size_t name, PickleId id) {
    if (!IsObject(id, "TensorStorageMetadata")) {
      return Refused("expected a TensorStorageMetadata, got ", tree_.TypeName(id));
    }
    DcpTensor tensor;
    const absl::StatusOr<DType> dtype = ReadDType(Field(id, "properties"));
    if (!dtype.ok()) return dtype.status();
    tensor.dtype = *dtype;
    absl::StatusOr<std::vector<int64_t>> shape = Sizes(Field(id, "size"), "size");
    if (!shape.ok()) return shape.status();
    tensor.shape = *std::move(shape);
    const PickleId chunks = Field(id, "chunks");
    if (chunks == kNoPickle || tree_.kind(chunks) != PickleKind::kList) {
      return Refused("expected a list of chunks, got ",
                     chunks == kNoPickle ? "none" : tree_.TypeName(chunks));
    }
    for (const PickleId item : tree_.Items(chunks)) {
      if (++chunk_count_ > kMaxChunks) {
        return Refused("expected at most ", kMaxChunks, " chunks, got more");
      }
      if (!IsObject(item, "ChunkStorageMetadata")) {
        return Refused("expected a ChunkStorageMetadata, got ", tree_.TypeName(item));
      }
      absl::StatusOr<std::vector<int64_t>> position = Sizes(Field(item, "offsets"), "offsets");
      if (!position.ok()) return position.status();
      absl::StatusOr<std::vector<int64_t>> sizes = Sizes(Field(item, "sizes"), "sizes");
      if (!sizes.ok()) return sizes.status();
      // A process that has nothing of the tensor may have said so.
      if (std::find(sizes->begin(), sizes->end(), 0) != sizes->end()) continue;
      const auto place = places_.find({name, *position});
      if (place == places_.end()) {
        return Refused("expected an entry in storage_data for each chunk, got a chunk without");
      }
      tensor.chunks.push_back({*std::move(position), *std::move(sizes), place->second});
    }
    return tensor;
  }

  // TensorProperties, whose state is (dtype, layout, requires_grad, memory_format, pin_memory).
  absl::StatusOr<DType> ReadDType(PickleId properties) const {
    PickleId dtype = kNoPickle;
    if (properties != kNoPickle && IsObject(properties, "TensorProperties")) {
      const PickleId state = tree_.State(properties);
      if (state != kNoPickle && tree_.kind(state) == PickleKind::kTuple &&
          !tree_.Items(state).empty()) {
        dtype = tree_.Items(state)[0];
      } else {
        dtype = Field(properties, "dtype");
      }
    }
    if (dtype == kNoPickle || tree_.kind(dtype) != PickleKind::kGlobal ||
        tree_.GlobalName(dtype).module != "torch") {
      return Refused("expected TensorProperties with a dtype, got ",
                     dtype == kNoPickle ? "none" : tree_.TypeName(dtype));
    }
    const std::optional<DType> known = DTypeFromName(tree_.GlobalName(dtype).name);
    if (!known.has_value() || *known == DType::kBytes || IsQuantized(*known)) {
      return Refused("expected a known dtype, got ", tree_.TypeName(dtype));
    }
    return *known;
  }

  const PickleTree& tree_;
  DcpMetadata metadata_;
  std::unordered_map<PickleId, size_t> number_of_id_;
  std::unordered_map<std::string_view, size_t> number_of_text_;
  std::unordered_map<size_t, size_t> file_of_text_;
  std::map<Key, DcpPlace> places_;
  std::unordered_map<size_t, PickleId> paths_;
  std::unordered_set<size_t> names_;
  size_t chunk_count_ = 0;
};

}  // namespace

absl::StatusOr<DcpMetadata> ParseDcpMetadata(std::string stream) {
  const absl::StatusOr<PickleTree> tree = ParsePickle(std::move(stream));
  if (!tree.ok()) return tree.status();
  return Reader(*tree).Run();
}

}  // namespace sconce
