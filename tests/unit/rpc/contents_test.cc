#include "server/rpc/contents.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "server/rpc/wire_reader.h"
#include "tests/unit/rpc/wire_pieces.h"

namespace sconce {
namespace {

class ContentsTest : public testing::Test {
 protected:
  absl::StatusOr<std::string> Decode(DType dtype, int64_t count) {
    const std::string message = contents_.SerializeAsString();
    const WirePieces wire(message, {message.size() / 2});
    const auto bytes =
        DecodeContents({{wire.pieces().begin(), wire.pieces().end()}}, dtype, count, "input 'x'");
    if (!bytes.ok()) return bytes.status();
    return std::string(reinterpret_cast<const char*>(bytes->data()), bytes->size());
  }
  inference::InferTensorContents contents_;
};

TEST_F(ContentsTest, SignedIntegersOfEveryWidth) {
  for (const int v : {-128, 0, 127}) contents_.add_int_contents(v);
  EXPECT_EQ(*Decode(DType::kInt8, 3), BytesOf<int8_t>({-128, 0, 127}));
  EXPECT_EQ(*Decode(DType::kInt16, 3), BytesOf<int16_t>({-128, 0, 127}));
  EXPECT_EQ(*Decode(DType::kInt32, 3), BytesOf<int32_t>({-128, 0, 127}));
  contents_.Clear();
  contents_.add_int64_contents(std::numeric_limits<int64_t>::min());
  EXPECT_EQ(*Decode(DType::kInt64, 1), BytesOf<int64_t>({std::numeric_limits<int64_t>::min()}));
}

TEST_F(ContentsTest, UnsignedIntegersOfEveryWidth) {
  for (const unsigned v : {0u, 255u}) contents_.add_uint_contents(v);
  EXPECT_EQ(*Decode(DType::kUInt8, 2), BytesOf<uint8_t>({0, 255}));
  EXPECT_EQ(*Decode(DType::kUInt16, 2), BytesOf<uint16_t>({0, 255}));
  EXPECT_EQ(*Decode(DType::kUInt32, 2), BytesOf<uint32_t>({0, 255}));
  contents_.Clear();
  contents_.add_uint64_contents(~uint64_t{0});
  EXPECT_EQ(*Decode(DType::kUInt64, 1), BytesOf<uint64_t>({~uint64_t{0}}));
}

TEST_F(ContentsTest, FloatsAndBools) {
  for (const float v : {1.5f, -0.0f}) contents_.add_fp32_contents(v);
  EXPECT_EQ(*Decode(DType::kFloat32, 2), BytesOf<float>({1.5f, -0.0f}));
  contents_.Clear();
  contents_.add_fp64_contents(0.1);
  EXPECT_EQ(*Decode(DType::kFloat64, 1), BytesOf<double>({0.1}));
  contents_.Clear();
  for (const bool v : {true, false}) contents_.add_bool_contents(v);
  EXPECT_EQ(*Decode(DType::kBool, 2), BytesOf<uint8_t>({1, 0}));
}

TEST_F(ContentsTest, ValuesOutsideOfTheDatatypeAreRefused) {
  contents_.add_int_contents(128);
  EXPECT_EQ(Decode(DType::kInt8, 1).status().message(),
            "input 'x' has value 0 of int_contents outside of INT8");
  contents_.Clear();
  contents_.add_uint_contents(256);
  EXPECT_FALSE(Decode(DType::kUInt8, 1).ok());
}

TEST_F(ContentsTest, CountsMustMatch) {
  contents_.add_fp32_contents(1);
  contents_.add_fp32_contents(2);
  EXPECT_EQ(Decode(DType::kFloat32, 3).status().message(),
            "input 'x' expects 3 values in fp32_contents, got 2");
  EXPECT_EQ(Decode(DType::kFloat32, 1).status().message(),
            "input 'x' expects 1 values in fp32_contents, got more");
  EXPECT_EQ(Decode(DType::kFloat32, int64_t{1} << 40).status().message(),
            "input 'x' expects 1099511627776 values in fp32_contents, got fewer");
}

TEST_F(ContentsTest, ValuesInAnotherFieldAreRefused) {
  contents_.add_fp32_contents(1);
  contents_.add_fp64_contents(1);
  EXPECT_EQ(Decode(DType::kFloat32, 1).status().message(),
            "input 'x' has datatype FP32, whose values belong in fp32_contents, got values in "
            "another field of contents");
}

TEST_F(ContentsTest, HalfPrecisionMustBeRaw) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    EXPECT_EQ(Decode(dtype, 1).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(ContentsTest, ValuesThatAreNotPackedAreTaken) {
  std::string message;
  for (const uint64_t value : {uint64_t{1}, uint64_t{300}}) {
    AppendTag({3, WireType::kVarint}, &message);
    AppendVarint(value, &message);
  }
  const WirePieces wire(message);
  const auto bytes =
      DecodeContents({{wire.pieces().begin(), wire.pieces().end()}}, DType::kInt64, 2, "x");
  ASSERT_TRUE(bytes.ok()) << bytes.status();
}

}  // namespace
}  // namespace sconce
