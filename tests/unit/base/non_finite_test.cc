#include "server/base/non_finite.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace sconce {
namespace {

template <typename Number>
std::optional<int64_t> First(DType dtype, const std::vector<Number>& numbers, DType as) {
  return FirstNonFinite(
      dtype, as,
      {reinterpret_cast<const std::byte*>(numbers.data()), numbers.size() * sizeof(Number)});
}

template <typename Bits>
bool IsFinite(DType dtype, Bits bits) {
  return !First<Bits>(dtype, {bits}, dtype).has_value();
}

TEST(NonFiniteTest, FindsTheFirstWhereverItIs) {
  for (const size_t size : {1, 7, 64, 4096, 4097, 20'000}) {
    std::vector<float> numbers(size, -1.5f);
    EXPECT_EQ(First(DType::kFloat32, numbers, DType::kFloat32), std::nullopt);
    for (size_t i = size; i-- > 0; i -= i > 100 ? 97 : 0) {
      numbers[i] = i % 2 == 0 ? std::nanf("") : -std::numeric_limits<float>::infinity();
      EXPECT_EQ(First(DType::kFloat32, numbers, DType::kFloat32), static_cast<int64_t>(i));
    }
  }
}

TEST(NonFiniteTest, EachTypeHasItsOwnRules) {
  using Limits = std::numeric_limits<double>;
  for (const double value : {0.0, -0.0, Limits::max(), Limits::denorm_min(), -Limits::max()}) {
    EXPECT_EQ(First<double>(DType::kFloat64, {value}, DType::kFloat64), std::nullopt);
  }
  for (const double value : {Limits::infinity(), -Limits::infinity(), Limits::quiet_NaN()}) {
    EXPECT_EQ(First<double>(DType::kFloat64, {1, value}, DType::kFloat64), 1);
    EXPECT_EQ(First<double>(DType::kComplex128, {1, 1, 1, value}, DType::kComplex128), 1);
  }
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    EXPECT_EQ(IsFinite(DType::kFloat16, half), (bits & 0x7C00) != 0x7C00) << bits;
    EXPECT_EQ(IsFinite(DType::kBFloat16, half), (bits & 0x7F80) != 0x7F80) << bits;
    EXPECT_TRUE(IsFinite(DType::kInt16, half));
  }
  for (uint32_t bits = 0; bits < 0x100; ++bits) {
    const auto byte = static_cast<uint8_t>(bits);
    EXPECT_EQ(IsFinite(DType::kFloat8E4M3FN, byte), (bits & 0x7F) != 0x7F) << bits;
    EXPECT_EQ(IsFinite(DType::kFloat8E5M2, byte), (bits & 0x7C) != 0x7C) << bits;
    EXPECT_EQ(IsFinite(DType::kFloat8E4M3FNUZ, byte), bits != 0x80) << bits;
    EXPECT_EQ(IsFinite(DType::kFloat8E5M2FNUZ, byte), bits != 0x80) << bits;
    EXPECT_EQ(IsFinite(DType::kFloat8E8M0FNU, byte), bits != 0xFF) << bits;
    EXPECT_TRUE(IsFinite(DType::kFloat4E2M1FNX2, byte));
    EXPECT_TRUE(IsFinite(DType::kUInt8, byte));
  }
}

TEST(NonFiniteTest, WhatACastMakesInfiniteIsFound) {
  const auto becomes_infinite = [](double value, DType as) {
    const bool of_double = First<double>(DType::kFloat64, {-value}, as).has_value();
    const auto narrow = static_cast<float>(value);
    if (static_cast<double>(narrow) == value) {
      EXPECT_EQ(First<float>(DType::kFloat32, {narrow}, as).has_value(), of_double) << value;
    }
    return of_double;
  };
  EXPECT_FALSE(becomes_infinite(65504, DType::kFloat16));
  EXPECT_FALSE(becomes_infinite(65519, DType::kFloat16));
  EXPECT_TRUE(becomes_infinite(65520, DType::kFloat16));
  EXPECT_FALSE(becomes_infinite(std::ldexp(1 - std::ldexp(1, -8), 128), DType::kBFloat16));
  EXPECT_TRUE(becomes_infinite(std::ldexp(1 - std::ldexp(1, -9), 128), DType::kBFloat16));
  EXPECT_FALSE(becomes_infinite(std::ldexp(1 - std::ldexp(1, -24), 128), DType::kFloat32));
  EXPECT_TRUE(First<double>(DType::kFloat64, {std::ldexp(1, 128)}, DType::kFloat32).has_value());
  // The largest of BF16 that FP16 holds.
  EXPECT_FALSE(First<uint16_t>(DType::kBFloat16, {0x477F}, DType::kFloat16).has_value());
  EXPECT_TRUE(First<uint16_t>(DType::kBFloat16, {0x4780}, DType::kFloat16).has_value());
}

}  // namespace
}  // namespace sconce
