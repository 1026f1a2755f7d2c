#include "server/loader/golden_samples.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "server/checkpoint/safetensors/safetensors_writer.h"
#include "tests/support/temp_dir.h"

namespace sconce {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

struct FloatTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

class GoldenSamplesTest : public testing::Test {
 protected:
  GoldenSamplesTest() {
    signature_.inputs = {{"x", DType::kFloat32, {2}}, {"mask", DType::kFloat32, {-1}}};
    signature_.outputs = {{"y", DType::kFloat32, {1}}};
  }

  absl::StatusOr<Sample> Read(const std::vector<FloatTensor>& tensors) {
    const std::string path = dir_.Path("a.safetensors");
    std::vector<SafetensorsWriter::Tensor> described;
    for (const FloatTensor& t : tensors) described.push_back({t.name, DType::kFloat32, t.shape});
    auto writer = SafetensorsWriter::Create(path, described, {});
    if (!writer.ok()) return writer.status();
    for (const size_t i : writer->order()) {
      const auto& values = tensors[i].values;
      const absl::Status written = writer->Append(
          {reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(float)});
      if (!written.ok()) return written;
    }
    if (absl::Status written = writer->Commit(); !written.ok()) return written;
    return ReadGoldenSample(path, {}, signature_, 4);
  }

  void ExpectRefused(const std::vector<FloatTensor>& tensors, const std::string& message) {
    const auto sample = Read(tensors);
    ASSERT_FALSE(sample.ok());
    EXPECT_TRUE(absl::IsInvalidArgument(sample.status())) << sample.status();
    EXPECT_THAT(std::string(sample.status().message()),
                HasSubstr("golden sample 'a.safetensors': " + message));
  }

  const FloatTensor x_{"x", {2, 2}, {1, 2, 3, 4}};
  const FloatTensor mask_{"mask", {2, 3}, {0, 0, 0, 0, 0, 0}};
  const FloatTensor y_{"y", {2, 1}, {5, 6}};
  Signature signature_;
  TempDir dir_;
};

TEST_F(GoldenSamplesTest, TensorsComeInTheSignaturesOrder) {
  const auto sample = Read({y_, mask_, x_});
  ASSERT_TRUE(sample.ok()) << sample.status();
  EXPECT_EQ(sample->name, "golden sample 'a.safetensors'");
  ASSERT_EQ(sample->inputs.size(), 2u);
  EXPECT_THAT(sample->inputs[0].shape, ElementsAre(2, 2));
  EXPECT_THAT(sample->inputs[1].shape, ElementsAre(2, 3));
  ASSERT_EQ(sample->outputs.size(), 1u);
  float second = 0;
  std::memcpy(&second, sample->outputs[0].bytes.data() + 4, 4);
  EXPECT_EQ(second, 6);
}

TEST_F(GoldenSamplesTest, WhatDoesNotFitTheSignatureIsNamed) {
  ExpectRefused({x_, mask_}, "expected a tensor 'y', the model has x, mask, y");
  ExpectRefused({x_, mask_, y_, {"z\n", {1}, {0}}}, "tensor 'z\\n' is unknown");
  ExpectRefused({{"x", {2, 1}, {1, 2}}, mask_, y_},
                "tensor 'x': expected float32[-1,2], got float32[2,1]");
  ExpectRefused({{"x", {2}, {1, 2}}, mask_, y_},
                "tensor 'x': expected float32[-1,2], got float32[2]");
  signature_.outputs[0].dtype = DType::kInt64;
  ExpectRefused({x_, mask_, y_}, "tensor 'y': expected int64[-1,1], got float32[2,1]");
}

TEST_F(GoldenSamplesTest, RowsAreTheSameEverywhereAndNoMoreThanABatch) {
  ExpectRefused({x_, mask_, {"y", {1, 1}, {5}}},
                "tensor 'y': expected 2 rows as the first input has, got 1");
  ExpectRefused({{"x", {5, 2}, std::vector<float>(10)}, mask_, y_},
                "tensor 'x': expected 1 to 4 rows, which is the largest batch, got 5");
  ExpectRefused({{"x", {0, 2}, {}}, mask_, y_}, "tensor 'x': expected 1 to 4 rows");
}

TEST_F(GoldenSamplesTest, AnInputThatMayBeLeftOutIsFilledIn) {
  signature_.inputs[1].dims = {2};
  signature_.inputs[1].rules.absent = 1;
  const auto sample = Read({x_, y_});
  ASSERT_TRUE(sample.ok()) << sample.status();
  EXPECT_THAT(sample->inputs.at(1).shape, ElementsAre(2, 2));
  std::vector<float> mask(4);
  std::memcpy(mask.data(), sample->inputs[1].bytes.data(), sizeof(float) * mask.size());
  EXPECT_THAT(mask, ElementsAre(1, 1, 1, 1));
}

TEST_F(GoldenSamplesTest, SizesThatTheRulesDoNotAllowAreRefused) {
  signature_.inputs[1].rules.sizes = {{.minimum = 4, .maximum = 8}};
  ExpectRefused({x_, mask_, y_}, "tensor 'mask': expected float32[-1,4..8], got float32[2,3]");
}

TEST_F(GoldenSamplesTest, WithoutABatchDimensionShapesAreWhole) {
  signature_.rows.batched = false;
  signature_.inputs = {{"x", DType::kFloat32, {2, 2}}};
  const auto sample = Read({x_, {"y", {1}, {5}}});
  ASSERT_TRUE(sample.ok()) << sample.status();
  EXPECT_THAT(sample->outputs[0].shape, ElementsAre(1));
}

TEST_F(GoldenSamplesTest, WhatIsNoCheckpointIsRefusedByTheReader) {
  dir_.Write("b.pt", "no weights");
  EXPECT_FALSE(ReadGoldenSample(dir_.Path("b.pt"), {}, signature_, 4).ok());
  EXPECT_TRUE(absl::IsNotFound(ReadGoldenSample(dir_.Path("c"), {}, signature_, 4).status()));
}

}  // namespace
}  // namespace sconce
