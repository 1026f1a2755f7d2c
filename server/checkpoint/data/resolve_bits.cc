#include "server/checkpoint/data/resolve_bits.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "server/checkpoint/little_endian.h"

namespace sconce {
namespace {

// Flips the sign of every `step`-th number of the type that `Bits` holds, from `first` on.
template <typename Bits>
void FlipSigns(absl::Span<std::byte> numbers, size_t first, size_t step) {
  constexpr Bits kSign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
  for (size_t at = first * sizeof(Bits); at < numbers.size(); at += step * sizeof(Bits)) {
    const Bits flipped = LoadLittleEndian<Bits>(numbers.data() + at) ^ kSign;
    std::memcpy(numbers.data() + at, &flipped, sizeof(Bits));
  }
}

void FlipSigns(int64_t number_size, absl::Span<std::byte> numbers, size_t first, size_t step) {
  switch (number_size) {
    case 1:
      return FlipSigns<uint8_t>(numbers, first, step);
    case 2:
      return FlipSigns<uint16_t>(numbers, first, step);
    case 4:
      return FlipSigns<uint32_t>(numbers, first, step);
    default:
      return FlipSigns<uint64_t>(numbers, first, step);
  }
}

template <typename Int>
void NegateIntegers(absl::Span<std::byte> numbers) {
  using Bits = std::make_unsigned_t<Int>;
  for (size_t at = 0; at < numbers.size(); at += sizeof(Int)) {
    const Bits negated = static_cast<Bits>(Bits{0} - LoadLittleEndian<Bits>(numbers.data() + at));
    std::memcpy(numbers.data() + at, &negated, sizeof(Bits));
  }
}

absl::Status Negate(DType dtype, absl::Span<std::byte> numbers) {
  switch (dtype) {
    case DType::kFloat16:
    case DType::kBFloat16:
    case DType::kFloat32:
    case DType::kFloat64:
      FlipSigns(DTypeSize(dtype), numbers, 0, 1);
      return absl::OkStatus();
    case DType::kComplex32:
    case DType::kComplex64:
    case DType::kComplex128:
      FlipSigns(DTypeSize(dtype) / 2, numbers, 0, 1);
      return absl::OkStatus();
    case DType::kInt8:
      NegateIntegers<int8_t>(numbers);
      return absl::OkStatus();
    case DType::kInt16:
      NegateIntegers<int16_t>(numbers);
      return absl::OkStatus();
    case DType::kInt32:
      NegateIntegers<int32_t>(numbers);
      return absl::OkStatus();
    case DType::kInt64:
      NegateIntegers<int64_t>(numbers);
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("expected the negative bit on a signed or complex tensor, got one of type ",
                       std::string(DTypeName(dtype))));
  }
}

// The two parts of a complex number stay in their places.
void SwapBytes(DType dtype, absl::Span<std::byte> numbers) {
  const auto size = static_cast<size_t>(IsComplex(dtype) ? DTypeSize(dtype) / 2 : DTypeSize(dtype));
  if (size == 1) return;
  for (size_t i = 0; i + size <= numbers.size(); i += size) {
    std::reverse(numbers.begin() + i, numbers.begin() + i + size);
  }
}

}  // namespace

absl::Status ResolveBits(const TensorDescriptor& tensor, absl::Span<std::byte> contiguous) {
  if (tensor.big_endian) SwapBytes(tensor.dtype, contiguous);
  if (tensor.negative) {
    if (absl::Status negated = Negate(tensor.dtype, contiguous); !negated.ok()) return negated;
  }
  // Conjugation of real numbers changes nothing.
  if (tensor.conjugate && IsComplex(tensor.dtype)) {
    FlipSigns(DTypeSize(tensor.dtype) / 2, contiguous, 1, 2);
  }
  return absl::OkStatus();
}

}  // namespace sconce
