#include "server/base/metrics.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

namespace sconce {
namespace {

class MetricsTest : public ::testing::Test {
 protected:
  // The series whose name and labels begin so, without what explains them.
  std::vector<std::string> Series(const std::string& beginning) const {
    std::istringstream text(metrics_.Serialize());
    std::vector<std::string> found;
    for (std::string line; std::getline(text, line);) {
      if (line.rfind(beginning, 0) == 0) found.push_back(line);
    }
    return found;
  }
  bool Has(const std::string& series) const { return Series(series).size() == 1; }

  Metrics metrics_;
  ModelMetrics* const model_ = metrics_.ForModel("m");
};

TEST_F(MetricsTest, LoadsAreCountedByHowTheyEnded) {
  EXPECT_EQ(Series("sconce_loads_total{").size(), 6u) << "a zero for each that has not happened";
  model_->CountLoad(LoadOutcome::kPublished);
  model_->CountLoad(LoadOutcome::kPublished);
  model_->CountLoad(LoadOutcome::kNoMemory);
  model_->CountLoad(LoadOutcome::kHeld);
  model_->CountLoad(LoadOutcome::kWithdrawn);
  EXPECT_TRUE(Has(R"(sconce_loads_total{model="m",outcome="published"} 2)"));
  EXPECT_TRUE(Has(R"(sconce_loads_total{model="m",outcome="no_memory"} 1)"));
  EXPECT_TRUE(Has(R"(sconce_loads_total{model="m",outcome="held"} 1)"));
  EXPECT_TRUE(Has(R"(sconce_loads_total{model="m",outcome="withdrawn"} 1)"));
  EXPECT_TRUE(Has(R"(sconce_loads_total{model="m",outcome="rejected"} 0)"));
}

TEST_F(MetricsTest, EachStepOfALoadHasItsTimes) {
  model_->ObserveStep(VersionState::kSettling, 2);
  model_->ObserveStep(VersionState::kRead, 0.2);
  model_->ObserveStep(VersionState::kRead, 0.4);
  model_->ObserveStep(VersionState::kPublished, 0.001);
  EXPECT_TRUE(Has(R"(sconce_load_step_seconds_count{model="m",step="read"} 2)"));
  EXPECT_TRUE(Has(R"(sconce_load_step_seconds_sum{model="m",step="settling"} 2)"));
  EXPECT_TRUE(Has(R"(sconce_load_step_seconds_count{model="m",step="published"} 1)"));
  // From settling to checked, and published: seen, held and the like take no time of their own.
  EXPECT_EQ(Series("sconce_load_step_seconds_count{").size(), 9u);
}

TEST_F(MetricsTest, VersionsAreCountedByTheStateTheyAreInNow) {
  const auto set = [&](std::array<int64_t, kVersionStates> versions, VersionState state,
                       int64_t count) {
    versions[static_cast<size_t>(state)] = count;
    model_->SetVersions(versions);
    return versions;
  };
  auto versions = set({}, VersionState::kPublished, 1);
  versions = set(versions, VersionState::kCanary, 1);
  set(versions, VersionState::kRetained, 3);
  EXPECT_TRUE(Has(R"(sconce_versions{model="m",state="canary"} 1)"));
  EXPECT_TRUE(Has(R"(sconce_versions{model="m",state="retained"} 3)"));
  model_->SetVersions({});
  EXPECT_TRUE(Has(R"(sconce_versions{model="m",state="canary"} 0)"));
  // Those that are over are told of by sconce_loads_total.
  EXPECT_TRUE(Series(R"(sconce_versions{model="m",state="rejected"})").empty());
  EXPECT_TRUE(Series(R"(sconce_versions{model="m",state="retired"})").empty());
}

TEST_F(MetricsTest, WeightsAreCountedByWhereTheyCameFrom) {
  model_->CountWeightBytes(100, 7);
  model_->CountWeightBytes(20, 0);
  EXPECT_TRUE(Has(R"(sconce_load_weight_bytes_total{model="m",source="read"} 120)"));
  EXPECT_TRUE(Has(R"(sconce_load_weight_bytes_total{model="m",source="shared"} 7)"));
}

TEST_F(MetricsTest, AThousandVersionsLeaveNoMoreSeriesThanOne) {
  const auto serve = [&](int64_t number) {
    ModelMetrics* const again = metrics_.ForModel("m");
    again->SetServingVersion(number, "id" + std::to_string(number));
    again->SetMemory({{"cpu", "weights", number}, {"cpu", "workspace", 1}});
    again->SetDeviations({{number, "cpu", 0.5, 0.25}});
    again->SetVersions({});
    again->CountLoad(LoadOutcome::kPublished);
    again->ObserveStep(VersionState::kRead, 1);
  };
  serve(1);
  const size_t series = Series("sconce_").size();
  for (int64_t number = 2; number <= 1000; ++number) serve(number);
  EXPECT_EQ(Series("sconce_").size(), series);
  EXPECT_EQ(Series("sconce_serving_version_info{").size(), 1u);
  EXPECT_EQ(Series(R"(sconce_serving_version_info{)")[0].find("id999"), std::string::npos);
  EXPECT_TRUE(Has(R"(sconce_model_memory_bytes{device="cpu",kind="weights",model="m"} 1000)"));
  EXPECT_EQ(Series("sconce_prepared_deviation{").size(), 2u);
  EXPECT_TRUE(Has(R"(sconce_prepared_deviation{device="cpu",measure="relative",)"
                  R"(model="m",version="1000"} 0.25)"));
  EXPECT_TRUE(Has(R"(sconce_loads_total{model="m",outcome="published"} 1000)"))
      << "counters go on across swaps";
  metrics_.ForModel("m")->SetServingVersion(0, "");
  EXPECT_TRUE(Series("sconce_serving_version_info{").empty());
}

}  // namespace
}  // namespace sconce
