#include "server/tools/text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace sconce::tools {
namespace {

TEST(Text, BytesTakeTheUnitThatFits) {
  EXPECT_EQ(BytesText(0), "0 B");
  EXPECT_EQ(BytesText(1023), "1023 B");
  EXPECT_EQ(BytesText(1024), "1.0 KiB");
  EXPECT_EQ(BytesText((1 << 20) - 1), "1.0 MiB");
  EXPECT_EQ(BytesText(int64_t{5} << 30), "5.0 GiB");
  EXPECT_EQ(BytesText(std::numeric_limits<int64_t>::max()), "8.0 EiB");
}

TEST(Text, CountsAreGroupedByThousands) {
  EXPECT_EQ(CountText(0), "0");
  EXPECT_EQ(CountText(999), "999");
  EXPECT_EQ(CountText(1000), "1,000");
  EXPECT_EQ(CountText(25557032), "25,557,032");
  EXPECT_EQ(CountText(-123456), "-123,456");
}

TEST(Text, WhatIsNotNothingIsNotShownAsNothing) {
  EXPECT_EQ(PercentText(0), "0.0%");
  EXPECT_EQ(PercentText(0.0001), "<0.1%");
  EXPECT_EQ(PercentText(0.12345), "12.3%");
  EXPECT_EQ(PercentText(1), "100.0%");
}

TEST(Text, NumbersAndShapes) {
  EXPECT_EQ(NumberText(-0.0123456), "-0.01235");
  EXPECT_EQ(NumberText(std::nan("")), "nan");
  EXPECT_EQ(ShapeText({}), "[]");
  EXPECT_EQ(ShapeText({64, 3, 7, 7}), "[64, 3, 7, 7]");
  EXPECT_EQ(PluralText(1, "tensor"), "1 tensor");
  EXPECT_EQ(PluralText(1024, "tensor"), "1,024 tensors");
}

}  // namespace
}  // namespace sconce::tools
