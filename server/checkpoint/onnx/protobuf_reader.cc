#include "server/checkpoint/onnx/protobuf_reader.h"

#include <algorithm>

#include "absl/types/span.h"
#include "server/checkpoint/error_context.h"

namespace sconce {
namespace {

// After a jump little is read, since the next jump may be near; more as long as there is none.
constexpr int64_t kFirstWindow = 512;
constexpr int64_t kMaxWindow = int64_t{64} << 10;

constexpr uint32_t kMaxFieldNumber = (1u << 29) - 1;

}  // namespace

absl::StatusOr<uint8_t> ProtobufReader::Byte(int64_t position) {
  const auto window_end = window_offset_ + static_cast<int64_t>(window_.size());
  if (position < window_offset_ || position >= window_end) {
    const bool goes_on = position == window_end && !window_.empty();
    const int64_t wanted =
        goes_on ? std::min(kMaxWindow, 2 * static_cast<int64_t>(window_.size())) : kFirstWindow;
    window_.resize(static_cast<size_t>(std::min(wanted, file_.size_bytes() - position)));
    window_offset_ = position;
    if (absl::Status read = ReadFrom(file_, position, absl::MakeSpan(window_)); !read.ok()) {
      return read;
    }
  }
  return static_cast<uint8_t>(window_[static_cast<size_t>(position - window_offset_)]);
}

absl::StatusOr<uint64_t> ProtobufReader::Varint(int64_t& position, int64_t end) {
  const int64_t start = position;
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (position >= end) {
      return Refused("expected a number at byte ", start, ", got the end of the message");
    }
    const absl::StatusOr<uint8_t> byte = Byte(position);
    if (!byte.ok()) return byte.status();
    ++position;
    value |= static_cast<uint64_t>(*byte & 0x7F) << shift;
    if ((*byte & 0x80) == 0) return value;
  }
  return Refused("expected a number of at most ten bytes at byte ", start, ", got more");
}

absl::StatusOr<ProtobufField> ProtobufReader::Next(int64_t& position, int64_t end) {
  const int64_t start = position;
  const absl::StatusOr<uint64_t> tag = Varint(position, end);
  if (!tag.ok()) return tag.status();
  const uint64_t number = *tag >> 3;
  if (number == 0 || number > kMaxFieldNumber) {
    return Refused("expected a field at byte ", start, ", got one with the number ", number);
  }
  ProtobufField field;
  field.number = static_cast<uint32_t>(number);
  field.type = static_cast<WireType>(*tag & 7);
  switch (field.type) {
    case WireType::kVarint: {
      const absl::StatusOr<uint64_t> value = Varint(position, end);
      if (!value.ok()) return value.status();
      field.varint = *value;
      return field;
    }
    case WireType::kFixed64:
      field.size_bytes = 8;
      break;
    case WireType::kFixed32:
      field.size_bytes = 4;
      break;
    case WireType::kBytes: {
      const absl::StatusOr<uint64_t> size = Varint(position, end);
      if (!size.ok()) return size.status();
      if (*size > static_cast<uint64_t>(end - position)) {
        return Refused("expected a field of at most ", end - position, " bytes at byte ", start,
                       ", got one of ", *size);
      }
      field.size_bytes = static_cast<int64_t>(*size);
      break;
    }
    default:
      return Refused("expected a field at byte ", start, ", got one of wire type ", *tag & 7);
  }
  field.offset = position;
  if (field.size_bytes > end - position) {
    return Refused("expected a field inside its message at byte ", start,
                   ", got the end of the message");
  }
  position += field.size_bytes;
  return field;
}

absl::StatusOr<std::string> ProtobufReader::Text(const ProtobufField& field, int64_t max_bytes) {
  if (field.type != WireType::kBytes) {
    return Refused("expected text in field ", field.number, ", got a number");
  }
  if (field.size_bytes > max_bytes) {
    return Refused("expected a text of at most ", max_bytes, " bytes in field ", field.number,
                   ", got ", field.size_bytes);
  }
  std::string text(static_cast<size_t>(field.size_bytes), '\0');
  absl::Status read =
      Read(field.offset, absl::MakeSpan(reinterpret_cast<std::byte*>(text.data()), text.size()));
  if (!read.ok()) return read;
  return text;
}

absl::Status ProtobufReader::Read(int64_t offset, absl::Span<std::byte> out) {
  const auto window_end = window_offset_ + static_cast<int64_t>(window_.size());
  if (offset >= window_offset_ && offset + static_cast<int64_t>(out.size()) <= window_end) {
    std::copy_n(window_.begin() + (offset - window_offset_), out.size(), out.begin());
    return absl::OkStatus();
  }
  return ReadFrom(file_, offset, out);
}

}  // namespace sconce
