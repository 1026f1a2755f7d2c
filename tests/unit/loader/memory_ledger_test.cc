#include "server/loader/memory_ledger.h"

#include <gtest/gtest.h>

#include <memory>

namespace sconce {
namespace {

TEST(MemoryLedgerTest, VersionsCountWhatTheyShareOnce) {
  const auto memory = std::make_shared<MemoryLedger>();
  auto first = memory->Add("m", {{"cpu", 100, 0}, {"sim:0", 90, 0}});
  auto second = memory->Add("m", {{"cpu", 100, 80}});
  const auto other = memory->Add("n", {{"cpu", 1000, 0}});
  EXPECT_EQ(memory->WeightsBytes("m", "cpu"), 120);
  EXPECT_EQ(memory->WeightsBytes("m", "sim:0"), 90);
  // What was shared stays with the one that is left.
  first.reset();
  EXPECT_EQ(memory->WeightsBytes("m", "cpu"), 100);
  EXPECT_EQ(memory->WeightsBytes("m", "sim:0"), 0);
  EXPECT_FALSE(memory->HasWeights("sim:0"));
  EXPECT_TRUE(memory->HasWeights("cpu"));
  second.reset();
  EXPECT_EQ(memory->WeightsBytes("m", "cpu"), 0);
}

TEST(MemoryLedgerTest, WeightsMayOutliveTheLoader) {
  auto memory = std::make_shared<MemoryLedger>();
  const auto weights = memory->Add("m", {{"cpu", 100, 0}});
  memory.reset();
}

}  // namespace
}  // namespace sconce
