// The initialisers of an ONNX model as named tensors. The file is a protobuf message:
//
//   ModelProto  = ir_version(1) producer_name(2) producer_version(3) graph(7) metadata_props(14)
//   ... GraphProto  = node(1)* name(2) initializer(5)* sparse_initializer(15)* ... TensorProto =
//   dims(1)* data_type(2) name(8) and its values: raw_data(9), in typed fields, or in
//                 another file (external_data(13), data_location(14))
//
// Nodes are passed over: neither constants in them nor graphs inside graphs are looked at, so that
// nothing nests.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/checkpoint/containers.h"
#include "server/checkpoint/data/stored_checkpoint.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/folder/shard_index.h"
#include "server/checkpoint/folder/sibling_files.h"
#include "server/checkpoint/onnx/onnx_tensor.h"
#include "server/checkpoint/onnx/protobuf_reader.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

constexpr int64_t kMaxTextBytes = 4096;

constexpr uint32_t kProducerName = 2;
constexpr uint32_t kProducerVersion = 3;
constexpr uint32_t kGraph = 7;
constexpr uint32_t kMetadataProps = 14;
constexpr uint32_t kInitializer = 5;
constexpr uint32_t kSparseInitializer = 15;
constexpr uint32_t kSparseValues = 1;

class OnnxReader {
 public:
  OnnxReader(File file, const CheckpointOptions& options)
      : model_(std::move(file)), decoded_left_(options.max_metadata_bytes) {
    listing_.path = model_.path();
  }

  absl::StatusOr<std::unique_ptr<Checkpoint>> Run() {
    ProtobufReader reader(model_);
    std::optional<ByteRange> graph;
    const int64_t end = model_.size_bytes();
    for (int64_t at = 0; at < end;) {
      const absl::StatusOr<ProtobufField> field = reader.Next(at, end);
      if (!field.ok()) return field.status();
      if (field->number == kProducerName || field->number == kProducerVersion) {
        const absl::StatusOr<std::string> text = reader.Text(*field, kMaxTextBytes);
        if (!text.ok()) return text.status();
        absl::StrAppend(&listing_.producer, listing_.producer.empty() ? "" : " ", Printable(*text));
      } else if (field->number == kMetadataProps) {
        if (absl::Status added = AddMetadata(reader, *field); !added.ok()) return added;
      } else if (field->number == kGraph) {
        if (field->type != WireType::kBytes) return Refused("expected a graph, got a number");
        if (graph.has_value()) return Refused("expected one graph, got two");
        graph = ByteRange{field->offset, field->size_bytes};
      }
    }
    if (!graph.has_value()) return Refused("expected an ONNX model with a graph, got one without");
    if (absl::Status read = ReadGraph(reader, *graph); !read.ok()) return InContext("graph", read);
    std::vector<File> files;
    files.push_back(std::move(model_));
    for (File& file : external_files_) files.push_back(std::move(file));
    return std::make_unique<StoredCheckpoint>("ONNX", std::move(listing_), std::move(files),
                                              std::vector<uint32_t>());
  }

 private:
  absl::Status AddMetadata(ProtobufReader& reader, const ProtobufField& entry) {
    if (entry.type != WireType::kBytes) return Refused("expected metadata_props, got a number");
    if (listing_.metadata.size() == kMaxMetadataEntries) return absl::OkStatus();
    MetadataEntry metadata;
    for (int64_t at = entry.offset; at < entry.offset + entry.size_bytes;) {
      const auto field = reader.Next(at, entry.offset + entry.size_bytes);
      if (!field.ok()) return field.status();
      if (field->type != WireType::kBytes || field->number > 2) continue;
      if (field->size_bytes > kMaxTextBytes) return absl::OkStatus();
      const absl::StatusOr<std::string> text = reader.Text(*field, kMaxTextBytes);
      if (!text.ok()) return text.status();
      (field->number == 1 ? metadata.name : metadata.value) = Printable(*text);
    }
    listing_.metadata.push_back(std::move(metadata));
    return absl::OkStatus();
  }

  absl::Status ReadGraph(ProtobufReader& reader, const ByteRange& graph) {
    size_t number = 0;
    for (int64_t at = graph.offset; at < graph.end();) {
      const absl::StatusOr<ProtobufField> field = reader.Next(at, graph.end());
      if (!field.ok()) return field.status();
      if (field->number != kInitializer && field->number != kSparseInitializer) continue;
      const std::string where = absl::StrCat("initializer ", number++);
      if (field->type != WireType::kBytes) {
        return InContext(where, Refused("expected a message, got a number"));
      }
      if (number > kMaxTensorCount) {
        return Refused("expected at most ", kMaxTensorCount, " initializers, got more");
      }
      ByteRange message = {field->offset, field->size_bytes};
      const bool is_sparse = field->number == kSparseInitializer;
      if (is_sparse) {
        const absl::StatusOr<ByteRange> values = ValuesOf(reader, message);
        if (!values.ok()) return InContext(where, values.status());
        message = *values;
      }
      const absl::StatusOr<OnnxTensor> tensor = ReadOnnxTensor(reader, message);
      if (!tensor.ok()) return InContext(where, tensor.status());
      absl::Status added = Add(reader, *tensor, is_sparse);
      if (!added.ok()) {
        return InContext(absl::StrCat("tensor '", Printable(tensor->name), "'"), added);
      }
    }
    if (number == 0) {
      return Refused("expected initializers, got a model without: its weights are in its nodes");
    }
    return absl::OkStatus();
  }

  // The values of a SparseTensorProto, whose name is the tensor's.
  static absl::StatusOr<ByteRange> ValuesOf(ProtobufReader& reader, const ByteRange& message) {
    for (int64_t at = message.offset; at < message.end();) {
      const absl::StatusOr<ProtobufField> field = reader.Next(at, message.end());
      if (!field.ok()) return field.status();
      if (field->number == kSparseValues && field->type == WireType::kBytes) {
        return ByteRange{field->offset, field->size_bytes};
      }
    }
    return Refused("expected values of a sparse tensor, got none");
  }

  absl::Status Add(ProtobufReader& reader, const OnnxTensor& source, bool is_sparse) {
    if (!names_.insert(source.name).second) {
      return Refused("expected each name once, got it twice");
    }
    const std::optional<DType> dtype = OnnxDType(source.data_type);
    if (is_sparse || !dtype.has_value()) {
      listing_.non_tensors.push_back(
          {source.name, is_sparse
                            ? "sparse tensor"
                            : absl::StrCat("tensor of ONNX type ", OnnxTypeName(source.data_type),
                                           ", which PyTorch does not have")});
      return absl::OkStatus();
    }
    TensorDescriptor tensor;
    tensor.name = source.name;
    tensor.dtype = *dtype;
    tensor.shape = source.shape;
    const absl::StatusOr<int64_t> elements = CountElements(tensor.shape);
    if (!elements.ok()) return elements.status();
    const absl::StatusOr<int64_t> bytes = CountBytes(*elements, tensor.dtype);
    if (!bytes.ok()) return bytes.status();
    tensor.strides = ContiguousStrides(tensor.shape);
    absl::StatusOr<StorageDescriptor> storage = Place(reader, source, *elements, *bytes);
    if (!storage.ok()) return storage.status();
    if (storage->size_bytes != *bytes) {
      return Refused("expected ", *bytes, " bytes for its shape and type, got ",
                     storage->size_bytes);
    }
    absl::Status fits = CheckTensorBounds(tensor, storage->size_bytes);
    if (!fits.ok()) return fits;
    tensor.storage = static_cast<int32_t>(listing_.storages.size());
    listing_.storages.push_back(*std::move(storage));
    listing_.tensors.push_back(std::move(tensor));
    return absl::OkStatus();
  }

  // Where the values lie.
  absl::StatusOr<StorageDescriptor> Place(ProtobufReader& reader, const OnnxTensor& source,
                                          int64_t elements, int64_t bytes) {
    if (source.external.has_value()) return PlaceOutside(*source.external, bytes);
    if (source.raw.has_value()) {
      return StorageDescriptor{.member = "raw_data",
                               .file_offset = source.raw->offset,
                               .size_bytes = source.raw->size_bytes};
    }
    absl::StatusOr<std::string> values = DecodeValues(reader, source, elements, decoded_left_);
    if (!values.ok()) return values.status();
    decoded_left_ -= static_cast<int64_t>(values->size());
    StorageDescriptor storage{.member = "values",
                              .file_offset = source.message.offset,
                              .size_bytes = static_cast<int64_t>(values->size())};
    storage.decoded = std::make_shared<const std::string>(*std::move(values));
    return storage;
  }

  absl::StatusOr<StorageDescriptor> PlaceOutside(const OnnxExternalData& external, int64_t bytes) {
    const absl::StatusOr<int32_t> number = FileOf(external.location);
    if (!number.ok()) return InContext("external data", number.status());
    const int64_t size = external_files_[static_cast<size_t>(*number)].size_bytes();
    const int64_t length = external.length.value_or(bytes);
    if (external.offset > size || length > size - external.offset) {
      return Refused("expected external data inside the ", size, " bytes of ",
                     Printable(external.location), ", got ", length, " bytes at byte ",
                     external.offset);
    }
    return StorageDescriptor{.member = "external data",
                             .file = 1 + *number,  // the model's own is the first

                             .file_offset = external.offset,
                             .size_bytes = length};
  }

  // Index into external_files_.
  absl::StatusOr<int32_t> FileOf(const std::string& location) {
    const auto known = opened_.find(location);
    if (known != opened_.end()) return known->second;
    if (opened_.size() == kMaxShards) {
      return Refused("expected at most ", kMaxShards, " files, got more");
    }
    if (!siblings_.has_value()) {
      absl::StatusOr<SiblingFiles> siblings =
          SiblingFiles::Of(model_.path(), SiblingFiles::Names::kInSubfolders);
      if (!siblings.ok()) return siblings.status();
      siblings_ = *std::move(siblings);
    }
    absl::StatusOr<File> file = siblings_->Open(location);
    if (!file.ok()) return file.status();
    const auto number = static_cast<int32_t>(external_files_.size());
    external_files_.push_back(*std::move(file));
    opened_.emplace(location, number);
    return number;
  }

  File model_;
  CheckpointListing listing_;
  std::vector<File> external_files_;
  std::optional<SiblingFiles> siblings_;
  std::map<std::string, int32_t> opened_;
  std::set<std::string> names_;
  int64_t decoded_left_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenOnnx(File file, const CheckpointOptions& options) {
  return OnnxReader(std::move(file), options).Run();
}

}  // namespace sconce
