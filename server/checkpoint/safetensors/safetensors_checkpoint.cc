// The safetensors container:
//
//   file    = header_size(u64, little-endian) header(JSON, header_size bytes) data
//   header  = { "__metadata__": {string: string}, name: {"dtype": string, "shape": [int...],
//               "data_offsets": [begin, end]}, ... }      offsets count from the start of `data`
//
// The tensors fill the data without holes or overlap. The JSON is read event by event, never as a
// tree: nesting is bounded by the grammar above, and each key may occur once.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/base/printable.h"
#include "server/checkpoint/containers.h"
#include "server/checkpoint/data/stored_checkpoint.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/little_endian.h"
#include "server/checkpoint/safetensors/safetensors_dtypes.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

constexpr int64_t kHeaderSizeBytes = 8;
// The format's own limit.
constexpr int64_t kMaxHeaderBytes = 100'000'000;
constexpr const char* kHeader = "header";

struct HeaderTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<int64_t> data_offsets;
};

struct Header {
  std::vector<HeaderTensor> tensors;  // as listed
  std::vector<MetadataEntry> metadata;
};

// Takes the JSON parser's events. Each method returns false, with error_ set, where the event does
// not fit the grammar.
class HeaderEvents final : public nlohmann::json_sax<nlohmann::json> {
 public:
  absl::Status Finish(bool parsed, Header& header) {
    if (!error_.ok()) return error_;
    if (!parsed) return Refused("expected JSON, got something that is none");
    header = std::move(header_);
    return absl::OkStatus();
  }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a bool"); }
  bool number_integer(number_integer_t value) override {
    return Unexpected(absl::StrCat("the negative number ", value));
  }
  bool number_float(number_float_t, const string_t& text) override {
    return Unexpected(absl::StrCat("the number ", Printable(text, 40)));
  }
  bool binary(binary_t&) override { return Unexpected("bytes"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (where_ != Where::kArray) return Unexpected(absl::StrCat("the number ", value));
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Refuse(Refused("expected '", field_, "' within 63 bits, got ", value));
    }
    std::vector<int64_t>& array = Array();
    const size_t limit = field_ == "shape" ? kMaxTensorRank : 2;
    if (array.size() == limit) {
      return Refuse(Refused("expected at most ", limit, " numbers in '", field_, "', got more"));
    }
    array.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (where_ == Where::kMetadata) {
      if (header_.metadata.size() < kMaxMetadataEntries) {
        header_.metadata.push_back({Printable(key_), Printable(value)});
      }
      return true;
    }
    if (where_ != Where::kTensor || field_ != "dtype") return Unexpected("a string");
    header_.tensors.back().dtype = value;
    return true;
  }

  bool start_object(size_t) override {
    switch (where_) {
      case Where::kStart:
        where_ = Where::kTop;
        return true;
      case Where::kTop:
        if (key_ == "__metadata__") {
          where_ = Where::kMetadata;
          return true;
        }
        if (header_.tensors.size() == kMaxTensorCount) {
          return Refuse(Refused("expected at most ", kMaxTensorCount, " tensors, got more"));
        }
        header_.tensors.emplace_back();
        header_.tensors.back().name = key_;
        fields_seen_.clear();
        field_.clear();
        where_ = Where::kTensor;
        return true;
      default:
        return Unexpected("an object");
    }
  }

  bool key(string_t& name) override {
    std::set<std::string>& seen = where_ == Where::kTop        ? names_
                                  : where_ == Where::kMetadata ? metadata_names_
                                                               : fields_seen_;
    if (!seen.insert(name).second) {
      return Refuse(Refused("expected each key once, got '", Printable(name), "' twice"));
    }
    if (where_ != Where::kTensor) {
      key_ = name;
      return true;
    }
    if (name != "dtype" && name != "shape" && name != "data_offsets") {
      return Refuse(Refused("expected dtype, shape and data_offsets, got '", Printable(name), "'"));
    }
    field_ = name;
    return true;
  }

  bool end_object() override {
    if (where_ == Where::kTensor) {
      if (fields_seen_.size() != 3) {
        return Refuse(Refused("expected dtype, shape and data_offsets, got ", fields_seen_.size(),
                              " of them"));
      }
      if (header_.tensors.back().data_offsets.size() != 2) {
        return Refuse(
            Refused("expected two data_offsets, got ", header_.tensors.back().data_offsets.size()));
      }
      where_ = Where::kTop;
    } else if (where_ == Where::kMetadata) {
      where_ = Where::kTop;
    } else {
      where_ = Where::kEnd;
    }
    return true;
  }

  bool start_array(size_t) override {
    if (where_ != Where::kTensor || (field_ != "shape" && field_ != "data_offsets")) {
      return Unexpected("an array");
    }
    where_ = Where::kArray;
    return true;
  }

  bool end_array() override {
    where_ = Where::kTensor;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    return Refuse(Refused("expected valid JSON, got something else at its byte ", position));
  }

 private:
  enum class Where { kStart, kTop, kMetadata, kTensor, kArray, kEnd };

  std::vector<int64_t>& Array() {
    HeaderTensor& tensor = header_.tensors.back();
    return field_ == "shape" ? tensor.shape : tensor.data_offsets;
  }

  bool Unexpected(const std::string& what) {
    switch (where_) {
      case Where::kStart:
      case Where::kEnd:
        return Refuse(Refused("expected an object, got ", what));
      case Where::kTop:
        return Refuse(
            Refused("expected an object that describes '", Printable(key_), "', got ", what));
      case Where::kMetadata:
        return Refuse(
            Refused("expected a string in __metadata__ at '", Printable(key_), "', got ", what));
      case Where::kTensor:
        return Refuse(Refused("expected ", field_ == "dtype" ? "a string" : "an array", " as '",
                              field_, "', got ", what));
      case Where::kArray:
        return Refuse(Refused("expected numbers of 0 or more in '", field_, "', got ", what));
    }
    return false;
  }

  bool Refuse(const absl::Status& error) {
    if (!error_.ok()) return false;
    const bool in_tensor = where_ == Where::kTensor || where_ == Where::kArray;
    error_ = in_tensor ? InContext(absl::StrCat("tensor '", Printable(key_), "'"), error) : error;
    return false;
  }

  Header header_;
  absl::Status error_;
  Where where_ = Where::kStart;
  std::string key_;    // of the top object or of __metadata__
  std::string field_;  // of a tensor's object
  std::set<std::string> names_;
  std::set<std::string> metadata_names_;
  std::set<std::string> fields_seen_;
};

absl::StatusOr<std::string> ReadHeader(const File& file, int64_t max_bytes) {
  if (file.size_bytes() < kHeaderSizeBytes) {
    return Refused("expected the header's size in 8 bytes, got a file of ", file.size_bytes());
  }
  std::array<std::byte, kHeaderSizeBytes> prefix;
  if (absl::Status read = ReadFrom(file, 0, absl::MakeSpan(prefix)); !read.ok()) return read;
  const auto size = LoadLittleEndian<uint64_t>(prefix.data());
  const int64_t limit = std::min(kMaxHeaderBytes, max_bytes);
  if (size > static_cast<uint64_t>(limit)) {
    return Refused("expected a header of at most ", limit, " bytes, got ", size);
  }
  if (size > static_cast<uint64_t>(file.size_bytes() - kHeaderSizeBytes)) {
    return Refused("expected a header inside the file's ", file.size_bytes(), " bytes, got one of ",
                   size, " bytes: the file is truncated");
  }
  std::string header(static_cast<size_t>(size), '\0');
  const auto out = absl::MakeSpan(reinterpret_cast<std::byte*>(header.data()), header.size());
  if (absl::Status read = ReadFrom(file, kHeaderSizeBytes, out); !read.ok()) return read;
  const size_t start = header.find_first_not_of(" \t\r\n");
  if (start == std::string::npos || header[start] != '{') {
    return Refused("expected a JSON object, got something else");
  }
  return header;
}

absl::StatusOr<TensorDescriptor> Describe(const HeaderTensor& entry, int64_t size_bytes) {
  const auto type =
      std::find_if(kSafetensorsDTypes.begin(), kSafetensorsDTypes.end(),
                   [&](const SafetensorsDType& known) { return known.name == entry.dtype; });
  if (type == kSafetensorsDTypes.end()) {
    if (entry.dtype == "F6_E2M3" || entry.dtype == "F6_E3M2") {
      return Refused("expected a dtype that PyTorch has, got ", entry.dtype);
    }
    return Refused("expected a known dtype, got '", Printable(entry.dtype), "'");
  }
  TensorDescriptor tensor;
  tensor.name = entry.name;
  tensor.dtype = type->dtype;
  tensor.shape = entry.shape;
  if (tensor.dtype == DType::kFloat4E2M1FNX2) {
    // The file counts the 4-bit values, PyTorch the bytes that hold two of them.
    if (tensor.shape.empty() || tensor.shape.back() % 2 != 0) {
      return Refused(
          "expected an even number of F4 values in the last dimension, got an odd one: they "
          "do not fill whole bytes");
    }
    tensor.shape.back() /= 2;
  }
  const absl::StatusOr<int64_t> bytes = CountTensorBytes(tensor.shape, tensor.dtype);
  if (!bytes.ok()) return bytes.status();
  if (*bytes != size_bytes) {
    return Refused("expected ", *bytes, " bytes for its shape and dtype ", entry.dtype, ", got ",
                   size_bytes, " between its data_offsets");
  }
  tensor.strides = ContiguousStrides(tensor.shape);
  if (absl::Status fits = CheckTensorBounds(tensor, size_bytes); !fits.ok()) return fits;
  return tensor;
}

// Describes the tensors in the order of their data, which must fill the file to its end.
absl::Status DescribeAll(const Header& header, int64_t data_offset, int64_t data_size,
                         CheckpointListing& listing) {
  std::vector<size_t> order(header.tensors.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return header.tensors[a].data_offsets < header.tensors[b].data_offsets;
  });
  int64_t expected_begin = 0;
  for (const size_t i : order) {
    const HeaderTensor& entry = header.tensors[i];
    const std::string where = absl::StrCat("tensor '", Printable(entry.name), "'");
    const int64_t begin = entry.data_offsets[0];
    const int64_t end = entry.data_offsets[1];
    if (end < begin || end > data_size) {
      return InContext(where, Refused("expected data_offsets in order and inside the ", data_size,
                                      " bytes of data, got [", begin, ", ", end, "]"));
    }
    if (begin != expected_begin) {
      return InContext(where,
                       Refused("expected data from byte ", expected_begin, " on, got byte ", begin,
                               begin < expected_begin ? ": it overlaps the tensor before"
                                                      : ": there is a hole before it"));
    }
    absl::StatusOr<TensorDescriptor> tensor = Describe(entry, end - begin);
    if (!tensor.ok()) return InContext(where, tensor.status());
    tensor->storage = static_cast<int32_t>(listing.storages.size());
    listing.storages.push_back(
        {.member = "data", .file_offset = data_offset + begin, .size_bytes = end - begin});
    listing.tensors.push_back(*std::move(tensor));
    expected_begin = end;
  }
  if (expected_begin != data_size) {
    return Refused("expected tensors that fill the ", data_size,
                   " bytes of data, got an end at byte ", expected_begin);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenSafetensors(File file,
                                                            const CheckpointOptions& options) {
  const absl::StatusOr<std::string> json = ReadHeader(file, options.max_metadata_bytes);
  if (!json.ok()) return InContext(kHeader, json.status());
  HeaderEvents events;
  Header header;
  const bool parsed = nlohmann::json::sax_parse(*json, &events);
  if (absl::Status good = events.Finish(parsed, header); !good.ok())
    return InContext(kHeader, good);

  CheckpointListing listing;
  listing.path = file.path();
  listing.metadata = std::move(header.metadata);
  const int64_t data_offset = kHeaderSizeBytes + static_cast<int64_t>(json->size());
  absl::Status described =
      DescribeAll(header, data_offset, file.size_bytes() - data_offset, listing);
  if (!described.ok()) return InContext(kHeader, described);
  std::vector<File> files;
  files.push_back(std::move(file));
  return std::make_unique<StoredCheckpoint>("safetensors", std::move(listing), std::move(files),
                                            std::vector<uint32_t>());
}

}  // namespace sconce
