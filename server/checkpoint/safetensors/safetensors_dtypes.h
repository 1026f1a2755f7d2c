// The names that safetensors has for PyTorch's types, in the order of the format's own list, from
// the least strictly aligned to the most: writers put tensors in the opposite order.
#ifndef SCONCE_SERVER_CHECKPOINT_SAFETENSORS_SAFETENSORS_DTYPES_H_
#define SCONCE_SERVER_CHECKPOINT_SAFETENSORS_SAFETENSORS_DTYPES_H_

#include <array>
#include <string_view>

#include "server/base/dtype.h"

namespace sconce {

struct SafetensorsDType {
  std::string_view name;
  DType dtype;
};

// F4 counts 4-bit values, PyTorch the bytes that hold two of them.
inline constexpr std::array<SafetensorsDType, 20> kSafetensorsDTypes = {{
    {"BOOL", DType::kBool},
    {"F4", DType::kFloat4E2M1FNX2},
    {"U8", DType::kUInt8},
    {"I8", DType::kInt8},
    {"F8_E5M2", DType::kFloat8E5M2},
    {"F8_E4M3", DType::kFloat8E4M3FN},
    {"F8_E8M0", DType::kFloat8E8M0FNU},
    {"F8_E4M3FNUZ", DType::kFloat8E4M3FNUZ},
    {"F8_E5M2FNUZ", DType::kFloat8E5M2FNUZ},
    {"I16", DType::kInt16},
    {"U16", DType::kUInt16},
    {"F16", DType::kFloat16},
    {"BF16", DType::kBFloat16},
    {"I32", DType::kInt32},
    {"U32", DType::kUInt32},
    {"F32", DType::kFloat32},
    {"C64", DType::kComplex64},
    {"F64", DType::kFloat64},
    {"I64", DType::kInt64},
    {"U64", DType::kUInt64},
}};

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_SAFETENSORS_SAFETENSORS_DTYPES_H_
