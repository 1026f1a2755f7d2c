#include "server/registry/signature.h"

#include <gtest/gtest.h>

#include <limits>

namespace sconce {
namespace {

const Signature kImage = {{{"image", DType::kFloat32, {3, 224, 224}}},
                          {{"scores", DType::kFloat32, {10}}}};
const Signature kTwo = {{{"a", DType::kFloat32, {2}}, {"b", DType::kInt64, {-1}}}, {}};

std::string ErrorOf(const Signature& signature, std::vector<DeclaredInput> inputs) {
  const auto checked = CheckInputs("m/7", signature, 8, inputs);
  if (checked.ok()) return "accepted";
  EXPECT_EQ(checked.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(checked.status().message());
}

TEST(SignatureTest, AcceptsInputsInAnyOrderAndSaysWhereTheyAre) {
  const auto checked =
      CheckInputs("m/7", kTwo, 8, {{"b", "INT64", {4, 5}}, {"a", "FP32", {4, 2}}});
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(checked->rows, 4);
  EXPECT_EQ(checked->position, (std::vector<size_t>{1, 0}));
  EXPECT_EQ(checked->size_bytes, (std::vector<int64_t>{32, 160}));
}

TEST(SignatureTest, WrongShapeSaysWhatWasExpectedAndWhatCame) {
  EXPECT_EQ(ErrorOf(kImage, {{"image", "FP32", {1, 224, 224, 3}}}),
            "m/7: input 'image' expects FP32[-1,3,224,224], got FP32[1,224,224,3]");
}

TEST(SignatureTest, WrongDatatypeNameCountAndRowsAreRefused) {
  EXPECT_EQ(ErrorOf(kImage, {{"image", "FP16", {1, 3, 224, 224}}}),
            "m/7: input 'image' expects FP32[-1,3,224,224], got FP16[1,3,224,224]");
  EXPECT_EQ(ErrorOf(kImage, {{"img", "FP32", {1, 3, 224, 224}}}),
            "m/7: has no input 'img', expected 'image'");
  EXPECT_EQ(ErrorOf(kImage, {}), "m/7: input 'image' is missing, expected FP32[-1,3,224,224]");
  EXPECT_EQ(ErrorOf(kTwo, {{"a", "FP32", {1, 2}}, {"a", "FP32", {1, 2}}}),
            "m/7: input 'a' is given twice");
  EXPECT_EQ(ErrorOf(kTwo, {{"a", "FP32", {2, 2}}, {"b", "INT64", {3, 1}}}),
            "m/7: input 'b' has 3 rows, input 'a' has 2; expected the same number");
  EXPECT_EQ(ErrorOf(kImage, {{"image", "FP32", {9, 3, 224, 224}}}),
            "m/7: expects at most 8 rows in a request, got 9");
}

TEST(SignatureTest, HostileShapesAreRefused) {
  EXPECT_EQ(ErrorOf(kTwo, {{"a", "FP32", {0, 2}}, {"b", "INT64", {0, 1}}}),
            "m/7: input 'a' expects FP32[-1,2], got FP32[0,2]");
  EXPECT_EQ(ErrorOf(kTwo, {{"a", "FP32", {-1, 2}}, {"b", "INT64", {1, 1}}}),
            "m/7: input 'a' expects FP32[-1,2], got FP32[-1,2]");
  EXPECT_EQ(ErrorOf(kTwo, {{"a", "FP32", {1, 2}}, {"b", "INT64", {1, -5}}}),
            "m/7: input 'b' expects INT64[-1,-1], got INT64[1,-5]");
  const int64_t huge = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(ErrorOf(kTwo, {{"a", "FP32", {1, 2}}, {"b", "INT64", {1, huge}}}),
            "m/7: input 'b': shape [1,9223372036854775807] has more bytes than can be counted");
  EXPECT_EQ(ErrorOf(kTwo, {{"a\x1b[31m\n", "FP32", {1, 2}}}).find('\x1b'), std::string::npos);
  EXPECT_EQ(ErrorOf(kTwo, std::vector<DeclaredInput>(1000)), "m/7: expected 2 inputs, got 1000");
}

TEST(SignatureTest, OutputsThatAreNotTheSignaturesAreAnInternalError) {
  const Signature signature = {{}, {{"y", DType::kFloat32, {-1, 2}}}};
  std::vector<std::byte> memory(48);
  HostTensor output{DType::kFloat32, {2, 3, 2}, absl::MakeSpan(memory), nullptr};
  EXPECT_TRUE(CheckOutputs(signature, 2, {&output, 1}).ok());
  EXPECT_EQ(CheckOutputs(signature, 3, {&output, 1}).message(),
            "output 'y' of a batch of 3 rows: expected FP32[-1,-1,2], the network gave "
            "FP32[2,3,2]");
  EXPECT_FALSE(CheckOutputs(signature, 2, {}).ok());
  output.dtype = DType::kFloat64;
  EXPECT_FALSE(CheckOutputs(signature, 2, {&output, 1}).ok());
  output.dtype = DType::kFloat32;
  output.bytes = output.bytes.subspan(0, 40);
  EXPECT_FALSE(CheckOutputs(signature, 2, {&output, 1}).ok());
}

}  // namespace
}  // namespace sconce
