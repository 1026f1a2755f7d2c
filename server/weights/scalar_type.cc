#include "server/weights/scalar_type.h"

#include <c10/util/Exception.h>

#include <utility>

namespace sconce {
namespace {

constexpr std::pair<DType, c10::ScalarType> kTypes[] = {
    {DType::kBool, c10::ScalarType::Bool},
    {DType::kUInt8, c10::ScalarType::Byte},
    {DType::kInt8, c10::ScalarType::Char},
    {DType::kUInt16, c10::ScalarType::UInt16},
    {DType::kInt16, c10::ScalarType::Short},
    {DType::kUInt32, c10::ScalarType::UInt32},
    {DType::kInt32, c10::ScalarType::Int},
    {DType::kUInt64, c10::ScalarType::UInt64},
    {DType::kInt64, c10::ScalarType::Long},
    {DType::kFloat16, c10::ScalarType::Half},
    {DType::kBFloat16, c10::ScalarType::BFloat16},
    {DType::kFloat32, c10::ScalarType::Float},
    {DType::kFloat64, c10::ScalarType::Double},
    {DType::kComplex32, c10::ScalarType::ComplexHalf},
    {DType::kComplex64, c10::ScalarType::ComplexFloat},
    {DType::kComplex128, c10::ScalarType::ComplexDouble},
    {DType::kFloat8E4M3FN, c10::ScalarType::Float8_e4m3fn},
    {DType::kFloat8E5M2, c10::ScalarType::Float8_e5m2},
    {DType::kFloat8E4M3FNUZ, c10::ScalarType::Float8_e4m3fnuz},
    {DType::kFloat8E5M2FNUZ, c10::ScalarType::Float8_e5m2fnuz},
    {DType::kFloat8E8M0FNU, c10::ScalarType::Float8_e8m0fnu},
    {DType::kFloat4E2M1FNX2, c10::ScalarType::Float4_e2m1fn_x2},
    {DType::kQInt8, c10::ScalarType::QInt8},
    {DType::kQUInt8, c10::ScalarType::QUInt8},
    {DType::kQInt32, c10::ScalarType::QInt32},
    {DType::kQUInt4x2, c10::ScalarType::QUInt4x2},
    {DType::kQUInt2x4, c10::ScalarType::QUInt2x4},
};
// Every DType but kBytes.
static_assert(std::size(kTypes) == kDTypeCount - 1);

}  // namespace

c10::ScalarType ToScalarType(DType dtype) {
  for (const auto& [ours, theirs] : kTypes) {
    if (ours == dtype) return theirs;
  }
  TORCH_INTERNAL_ASSERT(false, "no tensor holds ", std::string(DTypeName(dtype)));
}

std::optional<DType> FromScalarType(c10::ScalarType type) {
  for (const auto& [ours, theirs] : kTypes) {
    if (theirs == type) return ours;
  }
  return std::nullopt;
}

}  // namespace sconce
