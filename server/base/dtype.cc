#include "server/base/dtype.h"

#include <array>
#include <cstddef>

namespace sconce {
namespace {

struct Properties {
  DType dtype;
  std::string_view name;
  std::string_view oip;
  int64_t size;
};

// One row per enumerator, in its order: the enumerator is the index.
constexpr std::array<Properties, kDTypeCount> kProperties = {{
    {DType::kBool, "bool", "BOOL", 1},
    {DType::kUInt8, "uint8", "UINT8", 1},
    {DType::kInt8, "int8", "INT8", 1},
    {DType::kUInt16, "uint16", "UINT16", 2},
    {DType::kInt16, "int16", "INT16", 2},
    {DType::kUInt32, "uint32", "UINT32", 4},
    {DType::kInt32, "int32", "INT32", 4},
    {DType::kUInt64, "uint64", "UINT64", 8},
    {DType::kInt64, "int64", "INT64", 8},
    {DType::kFloat16, "float16", "FP16", 2},
    {DType::kBFloat16, "bfloat16", "BF16", 2},
    {DType::kFloat32, "float32", "FP32", 4},
    {DType::kFloat64, "float64", "FP64", 8},
    {DType::kComplex32, "complex32", "", 4},
    {DType::kComplex64, "complex64", "", 8},
    {DType::kComplex128, "complex128", "", 16},
    {DType::kFloat8E4M3FN, "float8_e4m3fn", "", 1},
    {DType::kFloat8E5M2, "float8_e5m2", "", 1},
    {DType::kFloat8E4M3FNUZ, "float8_e4m3fnuz", "", 1},
    {DType::kFloat8E5M2FNUZ, "float8_e5m2fnuz", "", 1},
    {DType::kFloat8E8M0FNU, "float8_e8m0fnu", "", 1},
    {DType::kFloat4E2M1FNX2, "float4_e2m1fn_x2", "", 1},
    {DType::kQInt8, "qint8", "", 1},
    {DType::kQUInt8, "quint8", "", 1},
    {DType::kQInt32, "qint32", "", 4},
    {DType::kQUInt4x2, "quint4x2", "", 1},
    {DType::kQUInt2x4, "quint2x4", "", 1},
    {DType::kBytes, "bytes", "BYTES", 0},
}};

constexpr bool RowsFollowTheEnumeration() {
  for (size_t i = 0; i < kProperties.size(); ++i) {
    if (static_cast<size_t>(kProperties[i].dtype) != i) return false;
  }
  return true;
}
static_assert(RowsFollowTheEnumeration());

const Properties& Of(DType dtype) { return kProperties[static_cast<size_t>(dtype)]; }

}  // namespace

std::string_view DTypeName(DType dtype) { return Of(dtype).name; }

std::optional<DType> DTypeFromName(std::string_view name) {
  for (const Properties& row : kProperties) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

int64_t DTypeSize(DType dtype) { return Of(dtype).size; }

int64_t DTypeElementsPerByte(DType dtype) {
  switch (dtype) {
    case DType::kQUInt4x2:
      return 2;
    case DType::kQUInt2x4:
      return 4;
    default:
      return 1;
  }
}

bool IsComplex(DType dtype) { return dtype >= DType::kComplex32 && dtype <= DType::kComplex128; }

bool IsQuantized(DType dtype) { return dtype >= DType::kQInt8 && dtype <= DType::kQUInt2x4; }

std::string_view OipDatatype(DType dtype) { return Of(dtype).oip; }

std::optional<DType> DTypeFromOip(std::string_view name) {
  if (name.empty()) return std::nullopt;
  for (const Properties& row : kProperties) {
    if (row.oip == name) return row.dtype;
  }
  return std::nullopt;
}

}  // namespace sconce
