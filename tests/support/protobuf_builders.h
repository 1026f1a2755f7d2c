// The wire format of protobuf messages, field by field, and an ONNX model made of it.
#ifndef SCONCE_TESTS_SUPPORT_PROTOBUF_BUILDERS_H_
#define SCONCE_TESTS_SUPPORT_PROTOBUF_BUILDERS_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace sconce::protobuf {

inline std::string Varint(uint64_t value) {
  std::string bytes;
  do {
    bytes += static_cast<char>((value & 0x7F) | (value > 0x7F ? 0x80 : 0));
    value >>= 7;
  } while (value != 0);
  return bytes;
}

inline std::string Number(uint32_t field, uint64_t value) {
  return Varint(uint64_t{field} << 3) + Varint(value);
}

inline std::string Bytes(uint32_t field, std::string_view bytes) {
  return Varint(uint64_t{field} << 3 | 2) + Varint(bytes.size()) + std::string(bytes);
}

// A TensorProto of type FLOAT and shape [size], followed by where its values are.
inline std::string OnnxTensor(std::string_view name, uint64_t size, std::string_view values) {
  return Number(1, size) + Number(2, 1) + Bytes(8, name) + std::string(values);
}

// data_location EXTERNAL.
inline std::string OnnxExternal(std::string_view location, std::string_view offset,
                                std::string_view length) {
  const auto entry = [](std::string_view key, std::string_view value) {
    return Bytes(13, Bytes(1, key) + Bytes(2, value));
  };
  return entry("location", location) + entry("offset", offset) + entry("length", length) +
         Number(14, 1);
}

// A ModelProto with these fields of GraphProto.
inline std::string OnnxModel(std::string_view graph) {
  return Number(1, 9) + Bytes(2, "pytorch") + Bytes(3, "2.11.0") + Bytes(7, graph);
}

}  // namespace sconce::protobuf

#endif  // SCONCE_TESTS_SUPPORT_PROTOBUF_BUILDERS_H_
