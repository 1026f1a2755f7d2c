#include "server/reload/compatibility.h"

#include <gtest/gtest.h>

#include "tests/support/fake_replica.h"

namespace sconce {
namespace {

std::unique_ptr<ModelVersion> Version(const std::string& architecture) {
  auto version = MakeFakeVersion("m", 1, {});
  version->architecture = architecture;
  return version;
}

TEST(CompatibilityTest, ParametersOfTheFamilyMayDifferWhileTensorsAreTheSame) {
  EXPECT_TRUE(CheckReplaces(*Version("mlp(hidden=8)"), *Version("mlp(hidden=16)")).ok());
}

TEST(CompatibilityTest, AnotherFamilyIsRefusedAndBothAreNamed) {
  const absl::Status status = CheckReplaces(*Version("resnet18(a=1)"), *Version("resnet50(a=1)"));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("resnet18"), std::string::npos);
  EXPECT_NE(status.message().find("resnet50"), std::string::npos);
  EXPECT_NE(status.message().find("RepositoryModelLoad"), std::string::npos);
}

TEST(CompatibilityTest, AFamilyIsNotItsPrefix) {
  EXPECT_FALSE(CheckReplaces(*Version("vgg16(a=1)"), *Version("vgg16_bn(a=1)")).ok());
}

TEST(CompatibilityTest, OtherTensorsAreRefused) {
  const auto live = Version("mlp");
  auto next = Version("mlp");
  next->signature.outputs[0].dims = {11};
  EXPECT_FALSE(CheckReplaces(*live, *next).ok());
  next = Version("mlp");
  next->signature.inputs[0].name = "other";
  EXPECT_FALSE(CheckReplaces(*live, *next).ok());
}

TEST(CompatibilityTest, WhatTakesMoreReplacesAndWhatTakesLessDoesNot) {
  auto live = Version("bert");
  live->signature.inputs[0].dtype = DType::kInt64;
  live->signature.inputs[0].rules.values = models::Range{0, 99};
  auto next = Version("bert");
  next->signature = live->signature;
  next->signature.inputs[0].rules.values = models::Range{0, 119};
  EXPECT_TRUE(CheckReplaces(*live, *next).ok());
  EXPECT_NE(CheckReplaces(*next, *live).message().find("takes values 0 to 119, would take 0 to 99"),
            std::string::npos);
  next->signature.rows.rows.maximum = 8;
  EXPECT_NE(CheckReplaces(*live, *next).message().find("requests would have at most 8 rows"),
            std::string::npos);
}

}  // namespace
}  // namespace sconce
