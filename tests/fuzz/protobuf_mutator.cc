// Protobuf messages as fields, without their schema: a field of bytes that decodes as a message is
// taken for one now and then.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/fuzz/mutators.h"
#include "tests/support/checkpoint_builders.h"
#include "tests/support/protobuf_builders.h"

namespace sconce {
namespace {

using protobuf::Varint;

constexpr uint64_t kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;
constexpr int kMaxDepth = 6;

struct Field {
  uint64_t number = 0;
  uint64_t type = kVarint;
  uint64_t value = 0;  // kVarint
  std::string bytes;   // of all others
};

std::optional<uint64_t> TakeVarint(std::string_view& bytes) {
  uint64_t value = 0;
  for (unsigned shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(bytes[0]);
    bytes.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if ((byte & 0x80) == 0) return value;
  }
  return std::nullopt;
}

std::optional<std::vector<Field>> DecodeMessage(std::string_view bytes) {
  std::vector<Field> fields;
  while (!bytes.empty()) {
    const std::optional<uint64_t> key = TakeVarint(bytes);
    if (!key.has_value() || *key >> 3 == 0 || *key >> 3 > 10'000) return std::nullopt;
    Field field{.number = *key >> 3, .type = *key & 7, .value = 0, .bytes = ""};
    size_t size = 0;
    if (field.type == kVarint || field.type == kBytes) {
      const std::optional<uint64_t> value = TakeVarint(bytes);
      if (!value.has_value()) return std::nullopt;
      (field.type == kVarint ? field.value : size) = *value;
    } else if (field.type == kFixed64 || field.type == kFixed32) {
      size = field.type == kFixed64 ? 8 : 4;
    } else {
      return std::nullopt;
    }
    if (size > bytes.size()) return std::nullopt;
    field.bytes = bytes.substr(0, size);
    bytes.remove_prefix(size);
    fields.push_back(field);
  }
  return fields;
}

std::string Encode(const std::vector<Field>& fields) {
  std::string bytes;
  for (const Field& field : fields) {
    bytes += Varint(field.number << 3 | field.type);
    if (field.type == kVarint) bytes += Varint(field.value);
    if (field.type == kBytes) bytes += Varint(field.bytes.size());
    bytes += field.bytes;
  }
  return bytes;
}

// Names and paths that mean something to ONNX.
constexpr std::string_view kMessageTexts[] = {
    "location",   "offset",    "length", "checksum", "model.data",           "../outside.bin",
    "aside.data", "/dev/zero", "0",      "-1",       "18446744073709551615", ".",
    "w"};

void MutateMessage(std::string& bytes, Random& random, int depth) {
  std::optional<std::vector<Field>> fields = DecodeMessage(bytes);
  if (!fields.has_value() || fields->empty()) return MutateBytes(bytes);
  const size_t place = random.Below(fields->size());
  const auto at = fields->begin() + static_cast<ptrdiff_t>(place);
  Field& field = *at;
  if (field.type == kBytes && depth < kMaxDepth && !random.OneIn(4)) {
    MutateMessage(field.bytes, random, depth + 1);
    bytes = Encode(*fields);
    return;
  }
  switch (random.Below(7)) {
    case 0:
      fields->erase(at);
      break;
    case 1:
      fields->insert(at, Field(random.Pick(*fields)));
      break;
    case 2:
      std::swap(field, (*fields)[random.Below(fields->size())]);
      break;
    case 3:
      field.number = 1 + random.Below(24);
      break;
    case 4:
      fields->insert(at, Field{.number = 1 + random.Below(24),
                               .type = kVarint,
                               .value = static_cast<uint64_t>(random.Integer()),
                               .bytes = ""});
      break;
    default:
      if (field.type == kVarint) {
        field.value = static_cast<uint64_t>(random.Integer());
      } else if (field.type == kBytes) {
        random.OneIn(2) ? MutateBytes(field.bytes) : void(field.bytes = random.Pick(kMessageTexts));
      } else {
        field.bytes = LittleEndian(random.Integer()).substr(0, field.bytes.size());
      }
      break;
  }
  bytes = Encode(*fields);
}

}  // namespace

void MutateProtobuf(std::string& bytes, Random& random) {
  random.OneIn(12) ? MutateBytes(bytes) : MutateMessage(bytes, random, 0);
}

}  // namespace sconce
