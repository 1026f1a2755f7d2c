#include "server/base/non_finite.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "server/base/avx2.h"

namespace sconce {
namespace {

// Looked at before it is decided whether to go on, so that the loop inside has no branch.
constexpr size_t kStep = 4096;

// The first of `count` numbers for which the highest bit of Bad(bits) is set.
template <typename Unsigned, typename Bad>
[[gnu::always_inline]] inline std::optional<int64_t> First(const std::byte* data, size_t count,
                                                           Bad bad) {
  constexpr int kHighest = static_cast<int>(8 * sizeof(Unsigned)) - 1;
  const auto at = [data](size_t i) {
    Unsigned bits;
    std::memcpy(&bits, data + i * sizeof(Unsigned), sizeof(Unsigned));
    return bits;
  };
  for (size_t begin = 0; begin < count; begin += kStep) {
    const size_t end = std::min(count, begin + kStep);
    Unsigned any = 0;
    for (size_t i = begin; i < end; ++i) any |= static_cast<Unsigned>(bad(at(i)));
    if (any >> kHighest == 0) continue;
    for (size_t i = begin; i < end; ++i) {
      if (static_cast<Unsigned>(bad(at(i))) >> kHighest != 0) return static_cast<int64_t>(i);
    }
  }
  return std::nullopt;
}

// Numbers that are a sign and a magnitude that rises with the other bits: those from `threshold`
// on.
template <typename Unsigned>
[[gnu::always_inline]] inline std::optional<int64_t> FirstFromInline(
    Unsigned threshold, absl::Span<const std::byte> bytes) {
  constexpr Unsigned kMagnitude = static_cast<Unsigned>(~Unsigned{0}) >> 1;
  return First<Unsigned>(
      bytes.data(),
      bytes.size() / sizeof(Unsigned), [threshold](Unsigned bits) __attribute__((always_inline)) {
        return threshold - 1 - (bits & kMagnitude);
      });
}

#if defined(__x86_64__)
template <typename Unsigned>
[[gnu::target("avx2")]] std::optional<int64_t> FirstFromWithAvx2(
    Unsigned threshold, absl::Span<const std::byte> bytes) {
  return FirstFromInline<Unsigned>(threshold, bytes);
}
#endif

template <typename Unsigned>
std::optional<int64_t> FirstFrom(std::type_identity_t<Unsigned> threshold,
                                 absl::Span<const std::byte> bytes) {
#if defined(__x86_64__)
  if (HasAvx2()) return FirstFromWithAvx2<Unsigned>(threshold, bytes);
#endif
  return FirstFromInline<Unsigned>(threshold, bytes);
}

std::optional<int64_t> FirstEqual(uint8_t wanted, absl::Span<const std::byte> bytes) {
  return First<uint8_t>(bytes.data(), bytes.size(), [wanted](uint8_t bits) {
    const int difference = bits ^ wanted;
    return (difference - 1) & ~difference;
  });
}

std::optional<int64_t> Halved(std::optional<int64_t> part) {
  return part.has_value() ? std::optional<int64_t>(*part / 2) : std::nullopt;
}

}  // namespace

// The thresholds of casts are the magnitudes that are rounded to infinity, half-way cases included
// because the largest finite number is odd: 65520 for FP16, 2^128 - 2^119 for BF16, 2^128 - 2^103
// for FP32. FP64 is cast to the 16-bit types by way of FP32.
std::optional<int64_t> FirstNonFinite(DType dtype, DType as, absl::Span<const std::byte> bytes) {
  switch (dtype) {
    case DType::kFloat16:
      return FirstFrom<uint16_t>(0x7C00, bytes);
    case DType::kBFloat16:
      return FirstFrom<uint16_t>(as == DType::kFloat16 ? 0x4780 : 0x7F80, bytes);
    case DType::kFloat32:
      return FirstFrom<uint32_t>(as == DType::kFloat16    ? 0x477FF000
                                 : as == DType::kBFloat16 ? 0x7F7F8000
                                                          : 0x7F800000,
                                 bytes);
    case DType::kFloat64:
      return FirstFrom<uint64_t>(as == DType::kFloat16    ? 0x40EFFDFFF0000000
                                 : as == DType::kBFloat16 ? 0x47EFEFFFF0000000
                                 : as == DType::kFloat32  ? 0x47EFFFFFF0000000
                                                          : 0x7FF0000000000000,
                                 bytes);
    case DType::kComplex32:
      return Halved(FirstFrom<uint16_t>(0x7C00, bytes));
    case DType::kComplex64:
      return Halved(FirstFrom<uint32_t>(0x7F800000, bytes));
    case DType::kComplex128:
      return Halved(FirstFrom<uint64_t>(0x7FF0000000000000, bytes));
    case DType::kFloat8E4M3FN:  // no infinity
      return FirstFrom<uint8_t>(0x7F, bytes);
    case DType::kFloat8E5M2:
      return FirstFrom<uint8_t>(0x7C, bytes);
    case DType::kFloat8E4M3FNUZ:
    case DType::kFloat8E5M2FNUZ:  // what would be minus zero is the only one
      return FirstEqual(0x80, bytes);
    case DType::kFloat8E8M0FNU:
      return FirstEqual(0xFF, bytes);
    default:
      return std::nullopt;
  }
}

}  // namespace sconce
