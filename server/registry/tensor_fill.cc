#include "server/registry/tensor_fill.h"

#include <cstring>

#include "server/checkpoint/data/half_float.h"

namespace sconce {
namespace {

template <typename T>
void FillWith(T value, absl::Span<std::byte> bytes) {
  for (size_t at = 0; at + sizeof value <= bytes.size(); at += sizeof value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
  }
}

}  // namespace

void FillElements(DType dtype, int64_t value, absl::Span<std::byte> bytes) {
  if (bytes.empty()) return;
  switch (value == 0 ? DType::kBytes : dtype) {
    case DType::kBool:
      return FillWith<uint8_t>(1, bytes);
    case DType::kUInt8:
    case DType::kInt8:
      return FillWith(static_cast<uint8_t>(value), bytes);
    case DType::kUInt16:
    case DType::kInt16:
      return FillWith(static_cast<uint16_t>(value), bytes);
    case DType::kUInt32:
    case DType::kInt32:
      return FillWith(static_cast<uint32_t>(value), bytes);
    case DType::kUInt64:
    case DType::kInt64:
      return FillWith(value, bytes);
    case DType::kFloat16:
      return FillWith(FloatToHalf(static_cast<float>(value)), bytes);
    case DType::kBFloat16:
      return FillWith(FloatToBFloat16(static_cast<float>(value)), bytes);
    case DType::kFloat32:
      return FillWith(static_cast<float>(value), bytes);
    case DType::kFloat64:
      return FillWith(static_cast<double>(value), bytes);
    default:
      std::memset(bytes.data(), 0, bytes.size());
  }
}

bool IsWhole(DType dtype) {
  switch (dtype) {
    case DType::kBool:
    case DType::kUInt8:
    case DType::kInt8:
    case DType::kUInt16:
    case DType::kInt16:
    case DType::kUInt32:
    case DType::kInt32:
    case DType::kUInt64:
    case DType::kInt64:
      return true;
    default:
      return false;
  }
}

}  // namespace sconce
