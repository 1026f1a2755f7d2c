// A distributed checkpoint: a folder whose .metadata says which tensors were saved in which pieces,
// and whose other files are, one after the other, what torch.save writes of each piece.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "server/base/printable.h"
#include "server/checkpoint/containers.h"
#include "server/checkpoint/data/chunked_copy.h"
#include "server/checkpoint/data/stored_checkpoint.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/folder/dcp_metadata.h"
#include "server/checkpoint/folder/sibling_files.h"
#include "server/checkpoint/pytorch/listing_builder.h"
#include "server/checkpoint/pytorch/saved_tensor.h"
#include "server/checkpoint/pytorch/state_dict_extractor.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

constexpr size_t kMaxHoldersNamed = 8;

// The keys under which an entry lies, without its own.
std::vector<std::string> ParentOf(const DcpEntry& entry) {
  return {entry.path.begin(), entry.path.end() - 1};
}

// The keys that lead to the state_dict of the model. The rules are those for a single file
// (state_dict_extractor.h), but that it may lie deeper.
absl::StatusOr<std::vector<std::string>> ChooseStateDict(const std::vector<DcpEntry>& entries) {
  std::set<std::vector<std::string>> holders;
  for (const DcpEntry& entry : entries) {
    if (entry.tensor.has_value()) holders.insert(ParentOf(entry));
  }
  if (holders.empty()) return Refused("expected tensors, got a checkpoint without any");
  for (const std::string_view wrapper : kKnownWrappers) {
    const std::vector<std::string>* chosen = nullptr;
    for (const std::vector<std::string>& holder : holders) {
      if (holder.empty() || holder.back() != wrapper) continue;
      if (chosen == nullptr || holder.size() < chosen->size()) chosen = &holder;
    }
    if (chosen != nullptr) return *chosen;
  }
  if (holders.count({}) != 0) return std::vector<std::string>();
  if (holders.size() == 1) return *holders.begin();
  std::string named;
  size_t count = 0;
  for (const std::vector<std::string>& holder : holders) {
    if (count++ == kMaxHoldersNamed) break;
    absl::StrAppend(&named, count == 1 ? "'" : ", '", Printable(absl::StrJoin(holder, ".")), "'");
  }
  if (holders.size() > kMaxHoldersNamed) absl::StrAppend(&named, ", ...");
  return Refused("expected one state_dict, got several, under ", named,
                 ", and none under a key that is known to hold the model");
}

std::string DescribeTensor(const DcpTensor& tensor) {
  return absl::StrCat(std::string(DTypeName(tensor.dtype)), " tensor of shape [",
                      absl::StrJoin(tensor.shape, ", "), "]");
}

class DcpReader {
 public:
  DcpReader(DcpMetadata metadata, SiblingFiles siblings, File metadata_file,
            const CheckpointOptions& options)
      : metadata_(std::move(metadata)), siblings_(std::move(siblings)), options_(options) {
    listing_.path = metadata_file.path();
    files_.push_back(std::move(metadata_file));
  }

  absl::StatusOr<std::unique_ptr<Checkpoint>> Run() {
    const absl::StatusOr<std::vector<std::string>> parent = ChooseStateDict(metadata_.entries);
    if (!parent.ok()) return parent.status();
    listing_.wrapper = absl::StrJoin(*parent, ".");
    listing_.producer = "torch.distributed.checkpoint";
    if (!metadata_.version.empty()) absl::StrAppend(&listing_.producer, " ", metadata_.version);
    for (const DcpEntry& entry : metadata_.entries) {
      const std::string where = absl::StrCat("tensor '", Printable(entry.fqn), "'");
      const absl::Status added = ParentOf(entry) == *parent ? AddToStateDict(entry) : Note(entry);
      if (!added.ok()) return InContext(where, added);
    }
    return std::make_unique<StoredCheckpoint>("distributed checkpoint", std::move(listing_),
                                              std::move(files_), std::move(crcs_));
  }

 private:
  absl::Status AddToStateDict(const DcpEntry& entry) {
    const std::string& name = entry.path.back();
    if (IsExtraState(name)) return absl::OkStatus();
    if (!names_.insert(name).second) {
      return Refused("expected each name once in the state_dict, got '", Printable(name),
                     "' twice");
    }
    if (!entry.tensor.has_value()) {
      std::string type = "object";
      if (entry.value.has_value()) {
        const absl::StatusOr<std::string> value = Describe(*entry.value);
        if (!value.ok()) return value.status();
        if (*value == "None") return absl::OkStatus();
        type = *value;
      }
      listing_.non_tensors.push_back({name, type});
      return absl::OkStatus();
    }
    return AddTensor(name, *entry.tensor);
  }

  absl::Status AddTensor(const std::string& name, const DcpTensor& source) {
    TensorDescriptor tensor;
    tensor.name = name;
    tensor.dtype = source.dtype;
    tensor.shape = source.shape;
    const absl::StatusOr<int64_t> bytes = CountTensorBytes(tensor.shape, tensor.dtype);
    if (!bytes.ok()) return bytes.status();
    tensor.strides = ContiguousStrides(tensor.shape);
    tensor.storage = kNoStorage;

    // Where they are is checked before they are read: where the tensor is whole, so are they.
    auto chunks = std::make_shared<std::vector<TensorChunk>>();
    for (const DcpChunk& chunk : source.chunks) {
      chunks->push_back({.position = chunk.position, .shape = chunk.shape, .strides = {}});
    }
    tensor.chunks = chunks;
    if (absl::Status whole = CheckChunks(tensor); !whole.ok()) return whole;
    for (size_t i = 0; i < chunks->size(); ++i) {
      if (absl::Status read = ReadChunk(source, i, (*chunks)[i]); !read.ok()) {
        return InContext(
            absl::StrCat("chunk at [", absl::StrJoin(source.chunks[i].position, ", "), "] in ",
                         Printable(metadata_.files[source.chunks[i].place.file])),
            read);
      }
    }
    if (chunks->size() == 1) {
      tensor.storage = chunks->front().storage;
      tensor.offset = chunks->front().offset;
      tensor.strides = chunks->front().strides;
      tensor.chunks = nullptr;
    }
    listing_.tensors.push_back(std::move(tensor));
    return absl::OkStatus();
  }

  absl::Status ReadChunk(const DcpTensor& source, size_t number, TensorChunk& chunk) {
    const DcpPlace& place = source.chunks[number].place;
    const absl::StatusOr<int32_t> file = FileOf(place);
    if (!file.ok()) return file.status();
    absl::StatusOr<SavedTensor> saved = ReadSavedTensor({.file = files_[static_cast<size_t>(*file)],
                                                         .offset = place.offset,
                                                         .size_bytes = place.size_bytes},
                                                        options_);
    if (!saved.ok()) return saved.status();
    const TensorDescriptor& tensor = saved->tensor;
    if (tensor.dtype != source.dtype || tensor.shape != chunk.shape) {
      return Refused("expected a ", std::string(DTypeName(source.dtype)), " tensor of shape [",
                     absl::StrJoin(chunk.shape, ", "), "] as the metadata says, got a ",
                     std::string(DTypeName(tensor.dtype)), " tensor of shape [",
                     absl::StrJoin(tensor.shape, ", "), "]");
    }
    if (tensor.storage == kNoStorage || tensor.conjugate || tensor.negative || tensor.big_endian ||
        saved->storages.size() != 1) {
      return Refused("expected a plain dense tensor, got one of another kind");
    }
    chunk.strides = tensor.strides;
    chunk.offset = tensor.offset;
    chunk.storage = static_cast<int32_t>(listing_.storages.size());
    saved->storages.front().file = *file;
    listing_.storages.push_back(std::move(saved->storages.front()));
    crcs_.insert(crcs_.end(), saved->storage_crcs.begin(), saved->storage_crcs.end());
    return absl::OkStatus();
  }

  // What lies beside the weights.
  absl::Status Note(const DcpEntry& entry) {
    if (listing_.metadata.size() >= kMaxMetadataEntries) return absl::OkStatus();
    if (entry.tensor.has_value()) {
      listing_.metadata.push_back({Printable(entry.fqn), DescribeTensor(*entry.tensor)});
    } else if (entry.value.has_value()) {
      absl::StatusOr<std::string> value = Describe(*entry.value);
      if (!value.ok()) return value.status();
      listing_.metadata.push_back({Printable(entry.fqn), *std::move(value)});
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Describe(const DcpPlace& place) {
    const absl::StatusOr<int32_t> file = FileOf(place);
    if (!file.ok()) return file.status();
    return DescribeSavedValue({.file = files_[static_cast<size_t>(*file)],
                               .offset = place.offset,
                               .size_bytes = place.size_bytes},
                              options_);
  }

  // Index into files_ of the file that the place lies in, which is opened when it is first needed.
  absl::StatusOr<int32_t> FileOf(const DcpPlace& place) {
    const auto known = opened_.find(place.file);
    if (known != opened_.end()) return known->second;
    absl::StatusOr<File> file = siblings_.Open(metadata_.files[place.file]);
    if (!file.ok()) return file.status();
    const auto index = static_cast<int32_t>(files_.size());
    files_.push_back(*std::move(file));
    opened_.emplace(place.file, index);
    return index;
  }

  const DcpMetadata metadata_;
  const SiblingFiles siblings_;
  const CheckpointOptions& options_;
  CheckpointListing listing_;
  std::vector<File> files_;
  std::vector<uint32_t> crcs_;
  std::map<size_t, int32_t> opened_;
  std::set<std::string> names_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenDistributed(File file,
                                                            const CheckpointOptions& options) {
  if (file.size_bytes() > options.max_metadata_bytes) {
    return Refused("expected metadata of at most ", options.max_metadata_bytes, " bytes, got ",
                   file.size_bytes());
  }
  std::string stream(static_cast<size_t>(file.size_bytes()), '\0');
  const auto out = absl::MakeSpan(reinterpret_cast<std::byte*>(stream.data()), stream.size());
  if (absl::Status read = ReadFrom(file, 0, out); !read.ok()) return read;
  absl::StatusOr<DcpMetadata> metadata = ParseDcpMetadata(std::move(stream));
  if (!metadata.ok()) return metadata.status();
  absl::StatusOr<SiblingFiles> siblings =
      SiblingFiles::Of(file.path(), SiblingFiles::Names::kInFolder);
  if (!siblings.ok()) return siblings.status();
  return DcpReader(*std::move(metadata), *std::move(siblings), std::move(file), options).Run();
}

}  // namespace sconce
