// An initialiser of an ONNX model: its TensorProto, read but for the values.
#ifndef SCONCE_SERVER_CHECKPOINT_ONNX_ONNX_TENSOR_H_
#define SCONCE_SERVER_CHECKPOINT_ONNX_ONNX_TENSOR_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/onnx/protobuf_reader.h"

namespace sconce {

// Of tensors and of what else a model names.
inline constexpr int64_t kMaxOnnxNameBytes = 4096;

// Values in a file of their own, as the model says: untrusted.
struct OnnxExternalData {
  std::string location;
  int64_t offset = 0;
  std::optional<int64_t> length;
};

struct OnnxTensor {
  std::string name;
  std::vector<int64_t> shape;
  int64_t data_type = 0;
  // At most one is set; none for an empty tensor.
  std::optional<ByteRange> raw;
  std::optional<OnnxExternalData> external;
  bool has_typed_values = false;  // in one of the fields that are read by DecodeValues
  ByteRange message;
};

absl::StatusOr<OnnxTensor> ReadOnnxTensor(ProtobufReader& reader, const ByteRange& message);

// The type as PyTorch has it; nullopt where it has none.
std::optional<DType> OnnxDType(int64_t data_type);
// ONNX's own name, or its number.
std::string OnnxTypeName(int64_t data_type);

// The values that are written one by one, as the bytes of `count` elements in order. `max_bytes`:
// more is refused.
absl::StatusOr<std::string> DecodeValues(ProtobufReader& reader, const OnnxTensor& tensor,
                                         int64_t count, int64_t max_bytes);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_ONNX_ONNX_TENSOR_H_
