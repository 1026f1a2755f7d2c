#include "server/registry/signature.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "models/tied_sizes.h"
#include "server/registry/signature_rules.h"

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
  const auto checked = CheckInputs("m/7", kTwo, 8, {{"b", "INT64", {4, 5}}, {"a", "FP32", {4, 2}}});
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

// Token ids of 1 to 8 tokens, a mask that may be left out, and hidden states of each token.
Signature Encoder() {
  Signature signature;
  signature.inputs = {{"ids", DType::kInt64, {-1}}, {"mask", DType::kInt64, {-1}}};
  signature.inputs[0].rules = {.sizes = {{1, 8}}, .values = models::Range{0, 99}, .padding = 0};
  signature.inputs[1].rules = {
      .sizes = {{1, 8}}, .values = models::Range{0, 1}, .absent = 1, .padding = 0};
  signature.outputs = {{"states", DType::kFloat32, {-1, 4}}};
  signature.outputs[0].rules.padding = 0;
  return signature;
}

TEST(SignatureTest, SizesOfOpenDimensionsAreThoseThatTheRulesAllow) {
  const Signature encoder = Encoder();
  EXPECT_EQ(ErrorOf(encoder, {{"ids", "INT64", {2, 8}}}), "accepted");
  EXPECT_EQ(ErrorOf(encoder, {{"ids", "INT64", {2, 9}}}),
            "m/7: input 'ids' expects INT64[-1,1..8], got INT64[2,9]");
  EXPECT_EQ(ErrorOf(encoder, {{"ids", "INT64", {2, 0}}}),
            "m/7: input 'ids' expects INT64[-1,1..8], got INT64[2,0]");
  Signature at_least = encoder;
  at_least.inputs[0].rules.sizes = {{.minimum = 2}};
  EXPECT_EQ(ErrorOf(at_least, {{"ids", "INT64", {2, 1}}}),
            "m/7: input 'ids' expects INT64[-1,2..], got INT64[2,1]");
}

TEST(SignatureTest, AnInputMayBeLeftOutOnlyWhereTheRulesSaySo) {
  const Signature encoder = Encoder();
  const auto checked = CheckInputs("m/7", encoder, 8, {{"ids", "INT64", {2, 3}}});
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(checked->position, (std::vector<size_t>{0, CheckedInputs::kAbsent}));
  EXPECT_EQ(checked->size_bytes, (std::vector<int64_t>{48, 0}));
  EXPECT_EQ(ErrorOf(encoder, {{"mask", "INT64", {2, 3}}}),
            "m/7: input 'ids' is missing, expected INT64[-1,1..8]");
  EXPECT_EQ(ErrorOf(encoder, {{"mask", "INT64", {2, 3}}, {"ids", "INT64", {2, 4}}}),
            "m/7: input 'mask' is [2,3], input 'ids' is [2,4]; expected the same sizes");
}

TEST(SignatureTest, WithoutABatchDimensionDimsAreTheWholeShape) {
  Signature whole = kTwo;
  whole.rows.batched = false;
  const auto checked = CheckInputs("m/7", whole, 1, {{"a", "FP32", {2}}, {"b", "INT64", {5}}});
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(checked->rows, 1);
  EXPECT_EQ(checked->size_bytes, (std::vector<int64_t>{8, 40}));
  EXPECT_EQ(ErrorOf(whole, {{"a", "FP32", {1, 2}}, {"b", "INT64", {5}}}),
            "m/7: input 'a' expects FP32[2], got FP32[1,2]");
  EXPECT_EQ(LargestBatch(whole.rows, 64), 1);
  EXPECT_EQ(LargestBatch({.rows = {1, 4}}, 64), 4);
  EXPECT_EQ(LargestBatch({.rows = {1, 4}}, 2), 2);

  Signature scalar = whole;
  scalar.outputs = {{"y", DType::kUInt8, {}}};
  std::vector<std::byte> memory(1);
  const HostTensor output{DType::kUInt8, {}, absl::MakeSpan(memory), nullptr};
  EXPECT_TRUE(CheckOutputs(scalar, 1, {&output, 1}).ok());
}

// Values of `dtype`, in pieces of `piece_bytes`.
template <typename T>
std::string ValuesError(DType dtype, const std::vector<T>& values, size_t piece_bytes,
                        models::Range allowed) {
  TensorSpec spec{"ids", dtype, {-1}};
  spec.rules.values = allowed;
  const auto* bytes = reinterpret_cast<const std::byte*>(values.data());
  std::vector<absl::Span<const std::byte>> pieces;
  for (size_t at = 0; at < values.size() * sizeof(T); at += piece_bytes) {
    pieces.emplace_back(bytes + at, std::min(piece_bytes, values.size() * sizeof(T) - at));
  }
  const auto count = static_cast<int64_t>(values.size());
  const absl::Status status = CheckValues("m/7", spec, {count / 2, 2}, pieces);
  if (!status.ok()) {
    EXPECT_TRUE(absl::IsInvalidArgument(status));
  }
  return std::string(status.message());
}

TEST(SignatureTest, ValuesAreLookedAtHoweverTheWireCutThem) {
  for (const size_t piece : {1u, 3u, 8u, 9u, 100u}) {
    EXPECT_EQ(ValuesError<int64_t>(DType::kInt64, {0, 9, 5, 0}, piece, {0, 9}), "") << piece;
    EXPECT_EQ(ValuesError<int64_t>(DType::kInt64, {0, 9, 5, 10}, piece, {0, 9}),
              "m/7: input 'ids' expects values 0 to 9, got 10 at [1, 1]")
        << piece;
    EXPECT_EQ(ValuesError<int32_t>(DType::kInt32, {0, 9, -1, 10}, piece, {0, 9}),
              "m/7: input 'ids' expects values 0 to 9, got -1 at [1, 0]")
        << piece;
  }
  EXPECT_EQ(ValuesError<uint8_t>(DType::kUInt8, {200, 255}, 2, {0, 255}), "");
  EXPECT_NE(ValuesError<int8_t>(DType::kInt8, {-56, 1}, 2, {0, 255}), "");
  const uint64_t huge = std::numeric_limits<uint64_t>::max();
  EXPECT_NE(ValuesError<uint64_t>(DType::kUInt64, {huge, 0}, 8, {-1, 5}), "");
}

TEST(SignatureTest, RulesThatContradictThemselvesAreRefused) {
  EXPECT_TRUE(CheckRules(Encoder()).ok()) << CheckRules(Encoder());
  EXPECT_TRUE(CheckRules(kImage).ok());
  const auto refuses = [](auto change) {
    Signature signature = Encoder();
    change(signature);
    return absl::IsInvalidArgument(CheckRules(signature));
  };
  EXPECT_TRUE(refuses([](Signature& s) { s.inputs[0].rules.sizes.emplace_back(); }));
  EXPECT_TRUE(refuses([](Signature& s) { s.inputs[0].rules.sizes = {{5, 4}}; }));
  EXPECT_TRUE(refuses([](Signature& s) { s.inputs[0].rules.values = models::Range{2, 1}; }));
  EXPECT_TRUE(refuses([](Signature& s) { s.inputs[0].dtype = DType::kFloat32; }));
  EXPECT_TRUE(refuses([](Signature& s) { s.inputs[0].rules.padding = 100; }));
  EXPECT_TRUE(refuses([](Signature& s) { s.inputs[0].rules.padding.reset(); }));
  EXPECT_TRUE(refuses([](Signature& s) { s.inputs[0].rules.absent = 1; }));
  EXPECT_TRUE(refuses([](Signature& s) { s.inputs[1].dims = {-1, -1}; }));
  EXPECT_TRUE(refuses([](Signature& s) { s.outputs[0].rules.padding.reset(); }));
  EXPECT_TRUE(refuses([](Signature& s) { s.rows.rows = {0, 4}; }));
  EXPECT_TRUE(refuses([](Signature& s) { s.rows.batched = false; }));
}

TEST(SignatureTest, PaddedOutputsHaveTheSizesOfTheBatch) {
  std::vector<std::byte> memory(2 * 3 * 4 * 4);
  const HostTensor output{DType::kFloat32, {2, 3, 4}, absl::MakeSpan(memory), nullptr};
  const int64_t three[] = {3}, five[] = {5};
  EXPECT_TRUE(CheckOutputs(Encoder(), 2, {&output, 1}, three).ok());
  EXPECT_EQ(CheckOutputs(Encoder(), 2, {&output, 1}, five).message(),
            "output 'states' of a batch of 2 rows of [5]: expected FP32[-1,-1,4], the network gave "
            "FP32[2,3,4]");
}

TEST(SignatureTest, AClientCanGoOnWithWhatTakesMore) {
  const auto why = [](auto change) {
    Signature after = Encoder();
    change(after);
    return WhyIncompatible(Encoder(), after);
  };
  EXPECT_EQ(why([](Signature&) {}), "");
  EXPECT_EQ(why([](Signature& s) { s.inputs[0].rules.sizes = {{1, 16}}; }), "");
  EXPECT_EQ(why([](Signature& s) {
              s.inputs[0].rules.sizes = {{1, 7}};
            }),
            "input 'ids' INT64[-1,1..8] would take INT64[-1,1..7]");
  EXPECT_EQ(why([](Signature& s) { s.inputs[0].rules.values = models::Range{0, 200}; }), "");
  EXPECT_EQ(why([](Signature& s) { s.inputs[0].rules.values.reset(); }), "");
  EXPECT_EQ(why([](Signature& s) {
              s.inputs[0].rules.values = models::Range{0, 98};
            }),
            "input 'ids' takes values 0 to 99, would take 0 to 98");
  EXPECT_EQ(why([](Signature& s) { s.inputs[1].rules.absent.reset(); }),
            "input 'mask' may be left out and would have to be there");
  EXPECT_EQ(why([](Signature& s) { s.inputs[0].rules.absent = 7; }), "");
  EXPECT_EQ(why([](Signature& s) { s.outputs[0].rules.padding.reset(); }),
            "output 'states' would have other sizes");
  EXPECT_EQ(why([](Signature& s) { s.rows.batched = false; }), "there would be no batch dimension");
}

// Two inputs of n and 2 n + 1 columns, and one of 8 n.
Signature Tied() {
  Signature signature;
  signature.inputs = {
      {"a", DType::kFloat32, {-1}}, {"b", DType::kFloat32, {3, -1}}, {"c", DType::kFloat32, {-1}}};
  signature.inputs[0].rules.ties = {{.tie = 0}};
  signature.inputs[1].rules.ties = {{}, {.tie = 0, .multiple = 2, .offset = 1}};
  signature.inputs[2].rules.ties = {{.tie = 1, .multiple = 8}};
  return signature;
}

std::string TiedError(int64_t a, int64_t b, int64_t c) {
  return ErrorOf(Tied(), {{"c", "FP32", {2, c}}, {"b", "FP32", {2, 3, b}}, {"a", "FP32", {2, a}}});
}

TEST(SignatureTest, SizesThatDependOnOneAnotherGoTogether) {
  EXPECT_EQ(TiedError(4, 9, 16), "accepted");
  EXPECT_EQ(TiedError(0, 1, 0), "accepted");
  EXPECT_EQ(TiedError(4, 11, 16),
            "m/7: input 'b' has size 11 in dimension 2, input 'a' has size 4 in dimension 1; "
            "expected 9 of input 'b'");
  EXPECT_EQ(TiedError(4, 10, 16),
            "m/7: input 'b' has size 10 in dimension 2, input 'a' has size 4 in dimension 1; "
            "expected 9 of input 'b'");
  EXPECT_EQ(TiedError(4, 9, 12),
            "m/7: input 'c' has size 12 in dimension 1; expected a multiple of 8");
  EXPECT_NE(TiedError(0, 0, 0), "accepted");

  Signature hostile = Tied();
  hostile.inputs[1].rules.ties[1] = {.tie = 0, .multiple = int64_t{1} << 62, .offset = -1};
  EXPECT_EQ(
      ErrorOf(hostile, {{"c", "FP32", {2, 8}}, {"b", "FP32", {2, 3, 3}}, {"a", "FP32", {2, 4}}}),
      "m/7: input 'b' has size 3 in dimension 2, input 'a' has size 4 in dimension 1; "
      "expected more than can be counted of input 'b'");
}

TEST(SignatureTest, TiesThatContradictThemselvesAreRefused) {
  EXPECT_TRUE(CheckRules(Tied()).ok()) << CheckRules(Tied());
  const auto refuses = [](auto change) {
    Signature signature = Tied();
    change(signature);
    return absl::IsInvalidArgument(CheckRules(signature));
  };
  EXPECT_TRUE(refuses([](Signature& s) { s.inputs[0].rules.ties.emplace_back(); }));
  EXPECT_TRUE(refuses([](Signature& s) { s.inputs[0].rules.ties[0].multiple = 0; }));
  EXPECT_TRUE(refuses([](Signature& s) { s.inputs[0].rules.ties[0].tie = -2; }));
  EXPECT_TRUE(refuses([](Signature& s) { s.inputs[0].rules.padding = 0; }));
}

TEST(SignatureTest, AClientCanGoOnWhereFewerSizesDependOnOneAnother) {
  const auto why = [](const Signature& before, auto change) {
    Signature after = before;
    change(after);
    return WhyIncompatible(before, after);
  };
  EXPECT_EQ(why(Tied(), [](Signature&) {}), "");
  EXPECT_EQ(why(Tied(), [](Signature& s) { s.inputs[0].rules.ties.clear(); }), "");
  // The numbers of ties are names.
  EXPECT_EQ(why(Tied(), [](Signature& s) { s.inputs[2].rules.ties[0].tie = 7; }), "");
  EXPECT_EQ(why(Tied(), [](Signature& s) { s.inputs[2].rules.ties[0].multiple = 4; }), "");
  EXPECT_EQ(why(Tied(), [](Signature& s) { s.inputs[2].rules.ties[0].multiple = 16; }),
            "input 'c' FP32[-1,-1] would take fewer sizes in dimension 1");
  EXPECT_EQ(why(Tied(), [](Signature& s) { s.inputs[2].rules.ties[0].tie = 0; }),
            "input 'c' FP32[-1,-1] would take fewer sizes in dimension 1");
  EXPECT_EQ(why(Tied(), [](Signature& s) { s.inputs[1].rules.ties[1].offset = 3; }),
            "input 'b' FP32[-1,3,-1] would take fewer sizes in dimension 2");
  Signature free = Tied();
  for (TensorSpec& input : free.inputs) input.rules.ties.clear();
  EXPECT_EQ(WhyIncompatible(free, Tied()),
            "input 'b' FP32[-1,3,-1] would take fewer sizes in dimension 2");
  EXPECT_EQ(WhyIncompatible(Tied(), free), "");
}

TEST(SignatureTest, SizesToTryGoTogether) {
  Signature signature = Tied();
  std::vector<std::vector<int64_t>> sizes = {{512}, {3, 512}, {30}};
  models::TieSizes(signature.inputs, sizes);
  EXPECT_EQ(sizes, (std::vector<std::vector<int64_t>>{{255}, {3, 511}, {24}}));
  EXPECT_EQ(TiedError(255, 511, 24), "accepted");
  signature.inputs[0].dims = {7};
  sizes = {{7}, {3, 1}, {8}};
  models::TieSizes(signature.inputs, sizes);
  EXPECT_EQ(sizes, (std::vector<std::vector<int64_t>>{{7}, {3, 15}, {8}}));
}

}  // namespace
}  // namespace sconce
