// DType: the element types of tensors, in checkpoints, networks and requests alike.
//
// A closed enumeration of our own, so that code without LibTorch can speak of them. Pure functions,
// callable from any thread.
#ifndef SCONCE_SERVER_BASE_DTYPE_H_
#define SCONCE_SERVER_BASE_DTYPE_H_

#include <cstdint>
#include <optional>
#include <string_view>

namespace sconce {

enum class DType : uint8_t {
  kBool,
  kUInt8,
  kInt8,
  kUInt16,
  kInt16,
  kUInt32,
  kInt32,
  kUInt64,
  kInt64,
  kFloat16,
  kBFloat16,
  kFloat32,
  kFloat64,
  kComplex32,
  kComplex64,
  kComplex128,
  kFloat8E4M3FN,
  kFloat8E5M2,
  kFloat8E4M3FNUZ,
  kFloat8E5M2FNUZ,
  kFloat8E8M0FNU,
  kFloat4E2M1FNX2,  // one element is a byte that holds two values
  kQInt8,
  kQUInt8,
  kQInt32,
  kQUInt4x2,  // two elements in a byte
  kQUInt2x4,  // four elements in a byte
  kBytes,     // strings of any length: only ever in requests, never in a checkpoint
};

inline constexpr int kDTypeCount = static_cast<int>(DType::kBytes) + 1;

// PyTorch's name without "torch.": "float32", "bfloat16", "quint4x2"; "bytes" for kBytes.
std::string_view DTypeName(DType dtype);
std::optional<DType> DTypeFromName(std::string_view name);

// Bytes one stored element takes; 1 for the types that pack several elements into a byte, 0 for
// kBytes.
int64_t DTypeSize(DType dtype);

// How many elements share one stored byte: 2 for kQUInt4x2, 4 for kQUInt2x4, else 1.
int64_t DTypeElementsPerByte(DType dtype);

bool IsComplex(DType dtype);
bool IsQuantized(DType dtype);

// The Open Inference Protocol's name ("FP32", "BYTES"); empty where it has none.
std::string_view OipDatatype(DType dtype);
std::optional<DType> DTypeFromOip(std::string_view name);

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_DTYPE_H_
