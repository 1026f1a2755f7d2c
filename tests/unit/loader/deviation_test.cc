#include "server/loader/deviation.h"

#include <gmock/gmock.h>

#include <cstring>
#include <limits>
#include <vector>

namespace sconce {
namespace {

using testing::ElementsAre;

KeptTensor Floats(const std::vector<float>& values) {
  KeptTensor tensor{DType::kFloat32, {1, static_cast<int64_t>(values.size())}, {}};
  tensor.bytes.resize(values.size() * sizeof(float));
  std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
  return tensor;
}

std::vector<float> FloatsOf(const KeptTensor& tensor) {
  std::vector<float> values(tensor.bytes.size() / sizeof(float));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

TEST(DeviationTest, TheLargestOfAllOutputsCounts) {
  const Answers expected = {{Floats({1, -4}), Floats({100, 0})}, {Floats({1, 1})}};
  EXPECT_EQ(LargestDeviation(expected, expected).absolute, 0);
  EXPECT_EQ(LargestDeviation(expected, expected).relative, 0);
  const Answers got = {{Floats({2, -4}), Floats({100, 2})}, {Floats({1, 1})}};
  const Deviation deviation = LargestDeviation(expected, got);
  EXPECT_EQ(deviation.absolute, 2);
  EXPECT_EQ(deviation.relative, 0.25);  // 1 of 4, which is more than 2 of 100
  EXPECT_EQ(Text(deviation), "2, which is 0.25 of the largest output");
}

TEST(DeviationTest, WhatIsNoNumberOnOneSideIsInfinitelyFar) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const double far = std::numeric_limits<double>::infinity();
  EXPECT_EQ(LargestDeviation({{Floats({nan, infinity})}}, {{Floats({nan, infinity})}}).absolute, 0);
  EXPECT_EQ(LargestDeviation({{Floats({1})}}, {{Floats({nan})}}).absolute, far);
  EXPECT_EQ(LargestDeviation({{Floats({infinity})}}, {{Floats({1})}}).absolute, far);
  EXPECT_EQ(LargestDeviation({{Floats({1})}}, {{Floats({1, 1})}}).absolute, far);
}

TEST(DeviationTest, HalfPrecisionIsCompared) {
  KeptTensor half{DType::kFloat16, {1}, {std::byte{0x00}, std::byte{0x3C}}};   // 1
  KeptTensor other{DType::kFloat16, {1}, {std::byte{0x00}, std::byte{0x40}}};  // 2
  EXPECT_EQ(LargestDeviation({{half}}, {{other}}).absolute, 1);
}

Signature SignatureOf(models::Range values) {
  Signature signature;
  signature.inputs = {{"x", DType::kFloat32, {-1, 3}}, {"ids", DType::kInt64, {4}}};
  signature.inputs[1].rules.values = values;
  signature.rows.rows.minimum = 2;
  return signature;
}

TEST(DeviationTest, ProbesAreWhatTheNetworkTakes) {
  const Signature signature = SignatureOf({.minimum = 5, .maximum = 7});
  Signature native = signature;
  native.inputs[0].dims = {6, 3};
  const std::vector<Sample> probes = MakeProbes(signature, native, {});
  ASSERT_EQ(probes.size(), 1u);
  EXPECT_THAT(probes[0].inputs[0].shape, ElementsAre(2, 6, 3));
  EXPECT_THAT(probes[0].inputs[1].shape, ElementsAre(2, 4));
  const std::vector<float> floats = FloatsOf(probes[0].inputs[0]);
  EXPECT_THAT(floats, testing::Each(testing::AllOf(testing::Ge(-1), testing::Le(1))));
  EXPECT_NE(floats[0], floats[1]);
  std::vector<int64_t> ids(8);
  std::memcpy(ids.data(), probes[0].inputs[1].bytes.data(), 64);
  EXPECT_THAT(ids, testing::Each(testing::AllOf(testing::Ge(5), testing::Le(7))));
  // Two versions are asked the same.
  EXPECT_EQ(MakeProbes(signature, native, {})[0].inputs[0].bytes, probes[0].inputs[0].bytes);
}

TEST(DeviationTest, TheFirstRowsOfAGoldenSampleAreAProbeToo) {
  Signature signature;
  signature.inputs = {{"x", DType::kFloat32, {2}}};
  Sample golden{"golden", {Floats({1, 2, 3, 4})}, {}};
  golden.inputs[0].shape = {2, 2};
  const std::vector<Sample> probes = MakeProbes(signature, signature, {&golden, 1});
  ASSERT_EQ(probes.size(), 2u);
  EXPECT_THAT(probes[1].inputs[0].shape, ElementsAre(1, 2));
  EXPECT_THAT(FloatsOf(probes[1].inputs[0]), ElementsAre(1, 2));
}

}  // namespace
}  // namespace sconce
