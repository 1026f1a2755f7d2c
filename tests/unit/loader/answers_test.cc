#include "server/loader/answers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "tests/support/fake_replica.h"

namespace sconce {
namespace {

using testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <typename T>
KeptTensor Kept(DType dtype, std::vector<int64_t> shape, const std::vector<T>& values) {
  KeptTensor tensor{dtype, std::move(shape), std::vector<std::byte>(values.size() * sizeof(T))};
  std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
  return tensor;
}

class AnswersTest : public testing::Test {
 protected:
  // Of one row, unless there are several.
  template <typename T>
  std::string Compare(DType dtype, const std::vector<T>& expected, std::vector<T> got,
                      const Tolerance& tolerance = {}) {
    const auto size = static_cast<int64_t>(expected.size());
    Signature signature;
    signature.outputs = {{"y", dtype, {size}}};
    const Sample sample{"sample", {}, {Kept(dtype, {1, size}, expected)}};
    HostTensor output;
    output.dtype = dtype;
    output.shape = {1, size};
    output.bytes = {reinterpret_cast<std::byte*>(got.data()), got.size() * sizeof(T)};
    const absl::Status status = CompareAnswers(sample, signature, 0, {&output, 1}, tolerance);
    if (!status.ok()) {
      EXPECT_TRUE(absl::IsInvalidArgument(status));
    }
    return std::string(status.message());
  }
  std::string Floats(float expected, float got, const Tolerance& tolerance = {}) {
    return Compare<float>(DType::kFloat32, {expected}, {got}, tolerance);
  }
};

TEST_F(AnswersTest, ToleranceIsAbsoluteAndRelativeToWhatIsExpected) {
  const Tolerance tolerance{.absolute = 0.5, .relative = 0.25};
  EXPECT_EQ(Floats(4, 5.5, tolerance), "");
  EXPECT_EQ(Floats(-4, -2.5, tolerance), "");
  EXPECT_NE(Floats(4, 5.51f, tolerance), "");
  EXPECT_NE(Floats(5.51f, 3.6f, tolerance), "");
  EXPECT_EQ(Floats(0, 0.5, tolerance), "");
  EXPECT_NE(Floats(0, 0.51f, tolerance), "");
  EXPECT_EQ(Floats(1, 1, {.absolute = 0, .relative = 0}), "");
  EXPECT_NE(Floats(1, std::nextafter(1.0f, 2.0f), {.absolute = 0, .relative = 0}), "");
}

TEST_F(AnswersTest, NanAgreesWithNanAndInfinityWithItself) {
  const Tolerance anything{.absolute = 1e30, .relative = 1e30};
  EXPECT_EQ(Floats(kNan, kNan), "");
  EXPECT_NE(Floats(kNan, 0, anything), "");
  EXPECT_NE(Floats(0, kNan, anything), "");
  EXPECT_EQ(Floats(kInfinity, kInfinity), "");
  EXPECT_NE(Floats(kInfinity, -kInfinity, anything), "");
  EXPECT_NE(Floats(kInfinity, 1, anything), "");
  EXPECT_NE(Floats(1, kInfinity, anything), "");
}

TEST_F(AnswersTest, MessageNamesOutputElementAndHowFarItIs) {
  EXPECT_EQ(
      Compare<float>(DType::kFloat32, {1, 2, 3}, {1, 2, 3.5}, {.absolute = 0.25, .relative = 0}),
      "sample: output 'y', element [0, 2]: expected 3, got 3.5, tolerance 0.25");
}

TEST_F(AnswersTest, EveryNumericTypeIsCompared) {
  const Tolerance exact{.absolute = 0, .relative = 0};
  // 1.0, 2^-24 (the smallest), an infinity.
  EXPECT_EQ(Compare<uint16_t>(DType::kFloat16, {0x3c00, 1, 0x7c00}, {0x3c00, 1, 0x7c00}), "");
  EXPECT_THAT(Compare<uint16_t>(DType::kFloat16, {0x3c00}, {0xbc00}),
              HasSubstr("expected 1, got -1"));
  EXPECT_THAT(Compare<uint16_t>(DType::kFloat16, {1}, {2}, exact),
              HasSubstr("expected 5.96046448e-08, got 1.1920929e-07"));
  EXPECT_THAT(Compare<uint16_t>(DType::kBFloat16, {0x3f80}, {0x4000}),
              HasSubstr("expected 1, got 2"));
  EXPECT_THAT(Compare<double>(DType::kFloat64, {1}, {2}), HasSubstr("expected 1, got 2"));
  const int64_t large = int64_t{1} << 62;
  EXPECT_NE(Compare<int64_t>(DType::kInt64, {large}, {large + 1}, exact), "");
  EXPECT_EQ(Compare<int64_t>(DType::kInt64, {large}, {large}, exact), "");
  EXPECT_NE(Compare<uint64_t>(DType::kUInt64, {~uint64_t{0}}, {~uint64_t{0} - 1}, exact), "");
  EXPECT_NE(Compare<int8_t>(DType::kInt8, {-1}, {1}), "");
  EXPECT_NE(Compare<uint8_t>(DType::kBool, {0}, {1}), "");
}

TEST_F(AnswersTest, WhatIsNoRealNumberHasToBeTheSame) {
  Signature signature;
  signature.outputs = {{"y", DType::kComplex64, {1}}};
  const Sample sample{"sample", {}, {Kept<float>(DType::kComplex64, {1, 1}, {1, 2})}};
  std::vector<float> got = {1, 3};
  HostTensor output;
  output.dtype = DType::kComplex64;
  output.shape = {1, 1};
  output.bytes = {reinterpret_cast<std::byte*>(got.data()), 8};
  EXPECT_THAT(std::string(CompareAnswers(sample, signature, 0, {&output, 1}, {}).message()),
              HasSubstr("element [0, 0]: other bytes than expected"));
}

class AskSampleTest : public testing::Test {
 protected:
  AskSampleTest() {
    signature_.inputs = {{"x", DType::kFloat32, {2}}};
    signature_.outputs = {{"y", DType::kFloat32, {2}}};
    // y = 2 x + 1
    sample_ = {"golden sample 'a'",
               {Kept<float>(DType::kFloat32, {3, 2}, {0, 1, 2, 3, 4, 5})},
               {Kept<float>(DType::kFloat32, {3, 2}, {1, 3, 5, 7, 9, 11})}};
    behaviour_.scale = 2;
    behaviour_.bias = 1;
    behaviour_.on_run = [this](int64_t rows) {
      rows_.push_back(rows);
      return status_;
    };
  }

  absl::Status Ask() {
    FakeReplica replica(behaviour_);
    return AskSample(replica, signature_, sample_, {});
  }

  Signature signature_;
  Sample sample_;
  FakeReplica::Behaviour behaviour_;
  std::vector<int64_t> rows_;
  absl::Status status_;
};

TEST_F(AskSampleTest, RunsInAsFewBatchesAsTheReplicaTakes) {
  EXPECT_TRUE(Ask().ok());
  EXPECT_THAT(rows_, testing::ElementsAre(3));
  behaviour_.max_rows = 2;
  rows_.clear();
  EXPECT_TRUE(Ask().ok());
  EXPECT_THAT(rows_, testing::ElementsAre(2, 1));
}

TEST_F(AskSampleTest, ElementIsNamedAsItLiesInTheSample) {
  behaviour_.max_rows = 2;
  sample_.outputs[0] = Kept<float>(DType::kFloat32, {3, 2}, {1, 3, 5, 7, 9, 12});
  EXPECT_EQ(std::string(Ask().message()),
            "golden sample 'a': output 'y', element [2, 1]: expected 12, got 11, tolerance 0.0121");
}

TEST_F(AskSampleTest, AnotherShapeIsAnError) {
  sample_.outputs[0] = Kept<float>(DType::kFloat32, {3, 1}, {1, 3, 5});
  EXPECT_EQ(std::string(Ask().message()),
            "golden sample 'a': output 'y': expected FP32[3,1], got FP32[3,2]");
}

TEST_F(AskSampleTest, FailureOfTheNetworkIsTheFilesAndOfTheDeviceTheDevices) {
  status_ = absl::InternalError("no such size");
  EXPECT_EQ(Ask(), absl::InvalidArgumentError("golden sample 'a': no such size"));
  status_ = absl::UnavailableError("lost");
  EXPECT_EQ(Ask(), absl::UnavailableError("golden sample 'a': lost"));
}

TEST_F(AskSampleTest, ANetworkOfAFixedNumberOfRowsIsAskedWithThatMany) {
  signature_.rows.rows = {.minimum = 2, .maximum = 2};
  EXPECT_TRUE(Ask().ok()) << Ask();
  EXPECT_THAT(rows_, testing::ElementsAre(2, 2)) << "the second with one that is filled up";
  sample_.outputs[0] = Kept<float>(DType::kFloat32, {3, 2}, {1, 3, 5, 7, 9, 12});
  EXPECT_THAT(std::string(Ask().message()), HasSubstr("element [2, 1]: expected 12"));
}

TEST_F(AskSampleTest, WithoutABatchDimensionTheSampleIsAskedAsItIs) {
  signature_.rows.batched = false;
  signature_.inputs[0].dims = {-1, 2};
  signature_.outputs[0].dims = {-1, 2};
  behaviour_.max_rows = 1;
  EXPECT_TRUE(Ask().ok()) << Ask();
  EXPECT_THAT(rows_, testing::ElementsAre(3)) << "its first dimension is no row";
  sample_.outputs[0] = Kept<float>(DType::kFloat32, {2, 2}, {1, 3, 5, 7});
  EXPECT_EQ(std::string(Ask().message()),
            "golden sample 'a': output 'y': expected FP32[2,2], got FP32[3,2]");
}

}  // namespace
}  // namespace sconce
