// ProtobufReader: the fields of a protobuf message in a file, one after the other, without holding
// the message: what is not wanted is passed over by position, whatever its size.
//
// Used by one thread while a file is opened.
#ifndef SCONCE_SERVER_CHECKPOINT_ONNX_PROTOBUF_READER_H_
#define SCONCE_SERVER_CHECKPOINT_ONNX_PROTOBUF_READER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/file.h"

namespace sconce {

enum class WireType : uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

// One field. The bytes of a kBytes field, and of a fixed one, lie at [offset, offset + size).
struct ProtobufField {
  uint32_t number = 0;
  WireType type = WireType::kVarint;
  uint64_t varint = 0;  // kVarint only
  int64_t offset = 0;
  int64_t size_bytes = 0;
};

// The part of a file in which a message, or packed values, lie.
struct ByteRange {
  int64_t offset = 0;
  int64_t size_bytes = 0;

  int64_t end() const { return offset + size_bytes; }
};

class ProtobufReader {
 public:
  // `file` must outlive the reader.
  explicit ProtobufReader(const File& file) : file_(file) {}

  // Reads the field at `position`, and moves it behind the field.
  // REQUIRES: position < end <= size of the file.
  absl::StatusOr<ProtobufField> Next(int64_t& position, int64_t end);

  // Reads a number of variable length in the same way.
  absl::StatusOr<uint64_t> Varint(int64_t& position, int64_t end);

  // All bytes of a field; an error if there are more than `max_bytes`.
  absl::StatusOr<std::string> Text(const ProtobufField& field, int64_t max_bytes);

  absl::Status Read(int64_t offset, absl::Span<std::byte> out);

 private:
  absl::StatusOr<uint8_t> Byte(int64_t position);

  const File& file_;
  std::vector<std::byte> window_;
  int64_t window_offset_ = 0;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_ONNX_PROTOBUF_READER_H_
