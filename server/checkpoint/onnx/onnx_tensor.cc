#include "server/checkpoint/onnx/onnx_tensor.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/base/utf8.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

// The fields of TensorProto and of StringStringEntryProto.
enum Field : uint32_t {
  kDims = 1,
  kDataType = 2,
  kSegment = 3,
  kFloatData = 4,
  kInt32Data = 5,
  kStringData = 6,
  kInt64Data = 7,
  kName = 8,
  kRawData = 9,
  kDoubleData = 10,
  kUint64Data = 11,
  kExternalData = 13,
  kDataLocation = 14,
};
constexpr uint32_t kKey = 1;
constexpr uint32_t kValue = 2;

struct OnnxType {
  std::string_view name;
  std::optional<DType> dtype;
  uint32_t values;  // the field that has them one by one
};

// By number.
constexpr std::array<OnnxType, 27> kTypes = {{
    {"UNDEFINED", std::nullopt, 0},
    {"FLOAT", DType::kFloat32, kFloatData},
    {"UINT8", DType::kUInt8, kInt32Data},
    {"INT8", DType::kInt8, kInt32Data},
    {"UINT16", DType::kUInt16, kInt32Data},
    {"INT16", DType::kInt16, kInt32Data},
    {"INT32", DType::kInt32, kInt32Data},
    {"INT64", DType::kInt64, kInt64Data},
    {"STRING", std::nullopt, kStringData},
    {"BOOL", DType::kBool, kInt32Data},
    {"FLOAT16", DType::kFloat16, kInt32Data},
    {"DOUBLE", DType::kFloat64, kDoubleData},
    {"UINT32", DType::kUInt32, kUint64Data},
    {"UINT64", DType::kUInt64, kUint64Data},
    {"COMPLEX64", DType::kComplex64, kFloatData},
    {"COMPLEX128", DType::kComplex128, kDoubleData},
    {"BFLOAT16", DType::kBFloat16, kInt32Data},
    {"FLOAT8E4M3FN", DType::kFloat8E4M3FN, kInt32Data},
    {"FLOAT8E4M3FNUZ", DType::kFloat8E4M3FNUZ, kInt32Data},
    {"FLOAT8E5M2", DType::kFloat8E5M2, kInt32Data},
    {"FLOAT8E5M2FNUZ", DType::kFloat8E5M2FNUZ, kInt32Data},
    {"UINT4", std::nullopt, kInt32Data},
    {"INT4", std::nullopt, kInt32Data},
    {"FLOAT4E2M1", std::nullopt, kInt32Data},
    {"FLOAT8E8M0", DType::kFloat8E8M0FNU, kInt32Data},
    {"UINT2", std::nullopt, kInt32Data},
    {"INT2", std::nullopt, kInt32Data},
}};

const OnnxType* TypeOf(int64_t data_type) {
  if (data_type < 0 || data_type >= static_cast<int64_t>(kTypes.size())) return nullptr;
  return &kTypes[static_cast<size_t>(data_type)];
}

bool IsTypedValues(uint32_t number) {
  return number == kFloatData || number == kInt32Data || number == kInt64Data ||
         number == kDoubleData || number == kUint64Data;
}

absl::StatusOr<int64_t> ParseCount(std::string_view text, std::string_view key) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0) {
    return Refused("expected a number of 0 or more as external ", std::string(key), ", got '",
                   Printable(text), "'");
  }
  return number;
}

// Adds one entry of external_data: location, offset or length. Others (checksum) are passed over.
absl::Status ReadExternal(ProtobufReader& reader, const ProtobufField& entry,
                          OnnxExternalData& external, uint32_t& seen) {
  std::string key, value;
  for (int64_t at = entry.offset; at < entry.offset + entry.size_bytes;) {
    const auto field = reader.Next(at, entry.offset + entry.size_bytes);
    if (!field.ok()) return field.status();
    if (field->number != kKey && field->number != kValue) continue;
    absl::StatusOr<std::string> text = reader.Text(*field, kMaxOnnxNameBytes);
    if (!text.ok()) return text.status();
    (field->number == kKey ? key : value) = *std::move(text);
  }
  constexpr std::array<std::string_view, 3> kKeys = {"location", "offset", "length"};
  const auto known = std::find(kKeys.begin(), kKeys.end(), key);
  if (known == kKeys.end()) return absl::OkStatus();
  const uint32_t bit = 1u << (known - kKeys.begin());
  if ((seen & bit) != 0) return Refused("expected external ", key, " once, got it twice");
  seen |= bit;
  if (key == "location") {
    external.location = std::move(value);
    return absl::OkStatus();
  }
  const absl::StatusOr<int64_t> count = ParseCount(value, key);
  if (!count.ok()) return count.status();
  if (key == "offset") {
    external.offset = *count;
  } else {
    external.length = *count;
  }
  return absl::OkStatus();
}

absl::Status AddDim(OnnxTensor& tensor, uint64_t value) {
  if (tensor.shape.size() == kMaxTensorRank) {
    return Refused("expected at most ", kMaxTensorRank, " dimensions, got more");
  }
  tensor.shape.push_back(static_cast<int64_t>(value));
  return absl::OkStatus();
}

}  // namespace

std::optional<DType> OnnxDType(int64_t data_type) {
  const OnnxType* type = TypeOf(data_type);
  return type == nullptr ? std::nullopt : type->dtype;
}

std::string OnnxTypeName(int64_t data_type) {
  const OnnxType* type = TypeOf(data_type);
  return type == nullptr ? absl::StrCat("number ", data_type) : std::string(type->name);
}

absl::StatusOr<OnnxTensor> ReadOnnxTensor(ProtobufReader& reader, const ByteRange& message) {
  OnnxTensor tensor;
  tensor.message = message;
  OnnxExternalData external;
  uint32_t seen_external = 0;
  bool is_external = false, has_name = false, has_type = false;
  for (int64_t at = message.offset; at < message.end();) {
    const absl::StatusOr<ProtobufField> field = reader.Next(at, message.end());
    if (!field.ok()) return field.status();
    const bool is_bytes = field->type == WireType::kBytes;
    switch (field->number) {
      case kDims:
        if (field->type == WireType::kVarint) {
          if (absl::Status added = AddDim(tensor, field->varint); !added.ok()) return added;
        } else if (is_bytes) {
          for (int64_t i = field->offset; i < field->offset + field->size_bytes;) {
            const auto value = reader.Varint(i, field->offset + field->size_bytes);
            if (!value.ok()) return value.status();
            if (absl::Status added = AddDim(tensor, *value); !added.ok()) return added;
          }
        } else {
          return Refused("expected numbers as dims, got fixed ones");
        }
        break;
      case kDataType:
        if (std::exchange(has_type, true)) return Refused("expected one data_type, got two");
        if (field->type != WireType::kVarint) return Refused("expected a number as data_type");
        tensor.data_type = static_cast<int64_t>(field->varint);
        break;
      case kName: {
        if (std::exchange(has_name, true)) return Refused("expected one name, got two");
        absl::StatusOr<std::string> name = reader.Text(*field, kMaxOnnxNameBytes);
        if (!name.ok()) return name.status();
        tensor.name = *std::move(name);
        break;
      }
      case kRawData:
        if (!is_bytes) return Refused("expected bytes as raw_data, got a number");
        if (tensor.raw.has_value()) return Refused("expected one raw_data, got two");
        tensor.raw = ByteRange{field->offset, field->size_bytes};
        break;
      case kExternalData: {
        if (!is_bytes) return Refused("expected a message as external_data, got a number");
        absl::Status read = ReadExternal(reader, *field, external, seen_external);
        if (!read.ok()) return read;
        break;
      }
      case kDataLocation:
        if (field->type != WireType::kVarint || field->varint > 1) {
          return Refused("expected a data_location of 0 or 1, got another");
        }
        is_external = field->varint == 1;
        break;
      case kSegment:
        return Refused("expected a whole tensor, got a segment of one");
      default:
        if (IsTypedValues(field->number)) tensor.has_typed_values = true;
    }
  }
  if (is_external) {
    if ((seen_external & 1) == 0)
      return Refused("expected the location of external data, got none");
    tensor.external = std::move(external);
  }
  if ((tensor.raw.has_value() ? 1 : 0) + (is_external ? 1 : 0) + (tensor.has_typed_values ? 1 : 0) >
      1) {
    return Refused("expected values in one place, got them in several");
  }
  if (!IsUtf8(tensor.name)) return Refused("expected a name in valid UTF-8");
  return tensor;
}

absl::StatusOr<std::string> DecodeValues(ProtobufReader& reader, const OnnxTensor& tensor,
                                         int64_t count, int64_t max_bytes) {
  const OnnxType& type = kTypes[static_cast<size_t>(tensor.data_type)];
  const bool is_fixed = type.values == kFloatData || type.values == kDoubleData;
  const int64_t element = DTypeSize(*type.dtype);
  const int64_t expected = count * element;
  if (expected > max_bytes) {
    return Refused("expected at most ", max_bytes, " bytes of values that are written one by one, ",
                   "got ", expected);
  }
  // Grows with what the file has, and not with what the shape claims.
  std::string bytes;
  const auto append = [&](uint64_t value) -> absl::Status {
    if (static_cast<int64_t>(bytes.size()) + element > expected) {
      return Refused("expected ", count, " values for the shape, got more");
    }
    for (int64_t i = 0; i < element; ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
    return absl::OkStatus();
  };
  for (int64_t at = tensor.message.offset; at < tensor.message.end();) {
    const absl::StatusOr<ProtobufField> field = reader.Next(at, tensor.message.end());
    if (!field.ok()) return field.status();
    if (!IsTypedValues(field->number)) continue;
    if (field->number != type.values) {
      return Refused("expected values of type ", std::string(type.name), " in field ", type.values,
                     ", got some in field ", field->number);
    }
    if (field->type == WireType::kVarint && !is_fixed) {
      if (absl::Status added = append(field->varint); !added.ok()) return added;
    } else if (field->type == WireType::kBytes && !is_fixed) {
      const int64_t end = field->offset + field->size_bytes;
      for (int64_t i = field->offset; i < end;) {
        const absl::StatusOr<uint64_t> value = reader.Varint(i, end);
        if (!value.ok()) return value.status();
        if (absl::Status added = append(*value); !added.ok()) return added;
      }
    } else if (field->type != WireType::kVarint && is_fixed) {
      if (field->size_bytes > expected - static_cast<int64_t>(bytes.size())) {
        return Refused("expected ", count, " values for the shape, got more");
      }
      const size_t before = bytes.size();
      bytes.resize(before + static_cast<size_t>(field->size_bytes));
      absl::Status read = reader.Read(
          field->offset,
          absl::MakeSpan(reinterpret_cast<std::byte*>(bytes.data()), bytes.size()).subspan(before));
      if (!read.ok()) return read;
    } else {
      return Refused("expected values of type ", std::string(type.name), " in field ", type.values,
                     ", got them in another encoding");
    }
  }
  if (static_cast<int64_t>(bytes.size()) != expected) {
    return Refused("expected ", count, " values for the shape, got ",
                   static_cast<int64_t>(bytes.size()) / element);
  }
  return bytes;
}

}  // namespace sconce
