// Versions that do not answer yet, or do not any more: retention, rollback, promotion, canaries,
// weights that are written over.

#include "tests/unit/reload/reloader_fixture.h"

namespace sconce {
namespace {

using testing::ElementsAre;

class VersionsTest : public ReloaderTest {
 protected:
  void ServeTwo(const std::string& words) {
    Configure("m", words);
    Replace("m", "one");
    Start();
    ASSERT_TRUE(AwaitServed("m", "one"));
    Replace("m", "two");
    ASSERT_TRUE(AwaitServed("m", "two"));
  }
};

TEST_F(VersionsTest, RollbackBringsTheSameObjectBackUnderItsNumber) {
  numbers_only_rise_ = false;
  Configure("m", "8");
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  const std::shared_ptr<const ModelVersion> first = registry_.Find("m")->Pin();
  Replace("m", "two");
  ASSERT_TRUE(AwaitServed("m", "two"));
  EXPECT_EQ(Records("m"), "retained:one published:two");
  const absl::StatusOr<int64_t> number = reloader_->Rollback("m", 0);
  ASSERT_TRUE(number.ok()) << number.status();
  EXPECT_EQ(*number, 1);
  EXPECT_EQ(registry_.Find("m")->Pin(), first);
  EXPECT_EQ(loader_.loads("m"), 2);
  EXPECT_EQ(Records("m"), "published:one retained:two");
  // The file that is there is left alone until it changes; the next number is a new one.
  LetThePolicyWork();
  EXPECT_EQ(Served("m"), "one");
  EXPECT_THAT(Error("m"), HasSubstr("rolled back to version 1"));
  Replace("m", "three");
  ASSERT_TRUE(AwaitServed("m", "three"));
  EXPECT_EQ(Number("m"), 3);
  EXPECT_EQ(Error("m"), "");
}

TEST_F(VersionsTest, RollbackGoesForwardAgainByNumberAndOnRequest) {
  numbers_only_rise_ = false;
  ServeTwo("8");
  ASSERT_TRUE(reloader_->Rollback("m", 1).ok());
  EXPECT_EQ(reloader_->Rollback("m", 0).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(reloader_->Rollback("m", 7).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(reloader_->Rollback("no", 0).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(*reloader_->Rollback("m", 2), 2);
  EXPECT_EQ(Served("m"), "two");
  ASSERT_TRUE(reloader_->Rollback("m", 1).ok());
  ASSERT_TRUE(Load("m").ok());
  EXPECT_EQ(Served("m"), "two");
  EXPECT_EQ(Number("m"), 3);
}

TEST_F(VersionsTest, AsManyAreRetainedAsTheConfigurationSays) {
  Configure("m", "8 retain 2");
  Replace("m", "one");
  Start();
  for (const std::string word : {"one", "two", "three", "four"}) {
    Replace("m", word);
    ASSERT_TRUE(AwaitServed("m", word));
  }
  EXPECT_EQ(Records("m"), "retired:one retained:two retained:three published:four");
  EXPECT_TRUE(Await([&] { return reaper_.reaped() == 1; }));
}

TEST_F(VersionsTest, LoadThatNeedsTheMemoryTakesRetainedVersionsOfAllModels) {
  ServeTwo("8");
  Configure("n", "8");
  Replace("n", "one");
  ASSERT_TRUE(AwaitServed("n", "one"));
  Replace("n", "two");
  ASSERT_TRUE(AwaitServed("n", "two"));
  Replace("other_model", "large");
  ASSERT_TRUE(AwaitServed("other_model", "large"));
  EXPECT_EQ(loader_.released(), 2);
  EXPECT_GE(reaper_.reaped(), 2);
  EXPECT_EQ(Records("m"), "retired:one published:two");
  EXPECT_EQ(reloader_->Rollback("n", 0).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(VersionsTest, UnloadLetsGoOfEverything) {
  ServeTwo("8");
  ASSERT_TRUE(reloader_->Unload("m").ok());
  EXPECT_EQ(Records("m"), "retired:one retired:two");
  EXPECT_TRUE(Await([&] { return reaper_.reaped() == 2; }));
}

TEST_F(VersionsTest, RollbackOvertakesALoad) {
  numbers_only_rise_ = false;
  ServeTwo("8");
  loader_.gate("m").Close();
  Replace("m", "three");
  loader_.gate("m").AwaitHeld();
  ASSERT_TRUE(reloader_->Rollback("m", 0).ok());
  loader_.gate("m").Open();
  LetThePolicyWork();
  EXPECT_EQ(Served("m"), "one");
  EXPECT_THAT(history_.Of("m"), ElementsAre("one", "two", "one"));
}

TEST_F(VersionsTest, HeldVersionAnswersOnceItIsPromoted) {
  Configure("m", "8 manual");
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  EXPECT_EQ(reloader_->Promote("m", 0).status().code(), absl::StatusCode::kFailedPrecondition);
  Replace("m", "two");
  ASSERT_TRUE(Await([&] { return Records("m") == "published:one held:two"; }));
  LetThePolicyWork();
  EXPECT_EQ(Served("m"), "one");
  EXPECT_EQ(loader_.loads("m"), 2);
  EXPECT_EQ(reloader_->Promote("m", 9).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(*reloader_->Promote("m", 2), 2);
  EXPECT_EQ(Served("m"), "two");
  EXPECT_EQ(Records("m"), "retained:one published:two");
  EXPECT_THAT(metrics_.Serialize(),
              HasSubstr("sconce_loads_total{model=\"m\",outcome=\"held\"} 1"));
}

TEST_F(VersionsTest, NewerFileTakesThePlaceOfAHeldOne) {
  Configure("m", "8 manual");
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  Replace("m", "two");
  ASSERT_TRUE(Await([&] { return Records("m") == "published:one held:two"; }));
  // An operator's call returns once the version is held.
  Replace("m", "three");
  ASSERT_TRUE(Load("m").ok());
  EXPECT_EQ(Records("m"), "published:one retired:two held:three");
  EXPECT_EQ(*reloader_->Promote("m", 0), 3);
}

TEST_F(VersionsTest, CanaryAnswersItsShareAndIsPromotedInTime) {
  Configure("m", "8 canary 0.25 300");
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  Replace("m", "two");
  ASSERT_TRUE(Await([&] { return registry_.Find("m")->serving().canary != nullptr; }));
  const Serving serving = registry_.Find("m")->serving();
  EXPECT_EQ(serving.live->weights_id, "one");
  EXPECT_EQ(serving.canary->weights_id, "two");
  EXPECT_EQ(serving.canary_share, 0.25);
  ASSERT_NE(serving.trial, nullptr);
  EXPECT_EQ(Records("m"), "published:one canary:two");
  serving.trial->RecordBatch(2, 1, 1, milliseconds(1), false);
  ASSERT_TRUE(AwaitServed("m", "two"));
  EXPECT_EQ(Records("m"), "retained:one published:two");
}

TEST_F(VersionsTest, CanaryThatFailsIsWithdrawnAndItsFileIsRefused) {
  Configure("m", "8 canary 0.5 3600000");
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  Replace("m", "two");
  ASSERT_TRUE(Await([&] { return registry_.Find("m")->serving().canary != nullptr; }));
  const std::shared_ptr<CanaryTrial> trial = registry_.Find("m")->serving().trial;
  for (int i = 0; i < 100; ++i) {
    trial->RecordBatch(1, 1, 1, milliseconds(1), false);
    trial->RecordFailures(2, 1);
  }
  ASSERT_TRUE(AwaitError("m", "was withdrawn"));
  LetThePolicyWork();
  EXPECT_EQ(registry_.Find("m")->serving().canary, nullptr);
  EXPECT_EQ(Records("m"), "published:one rejected:two");
  EXPECT_EQ(loader_.loads("m"), 2);
  EXPECT_THAT(metrics_.Serialize(),
              HasSubstr("sconce_loads_total{model=\"m\",outcome=\"withdrawn\"} 1"));
}

TEST_F(VersionsTest, OperatorEndsACanaryEitherWay) {
  Configure("m", "8 canary 0.5 3600000");
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  Replace("m", "two");
  ASSERT_TRUE(Await([&] { return registry_.Find("m")->serving().canary != nullptr; }));
  EXPECT_EQ(*reloader_->Rollback("m", 0), 1);
  EXPECT_EQ(registry_.Find("m")->serving().canary, nullptr);
  EXPECT_THAT(Error("m"), HasSubstr("withdrawn on request"));
  Replace("m", "three");
  ASSERT_TRUE(Await([&] { return registry_.Find("m")->serving().canary != nullptr; }));
  EXPECT_TRUE(reloader_->Promote("m", 0).ok());
  EXPECT_EQ(Served("m"), "three");
}

TEST_F(VersionsTest, OverwrittenVersionIsNotRetained) {
  ServeTwo("8 in_place");
  ASSERT_TRUE(Await([&] { return loader_.committed() == 1; }));  // just after it serves
  EXPECT_EQ(Records("m"), "retired:one published:two");
  EXPECT_EQ(reloader_->Rollback("m", 0).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(VersionsTest, OverwriteThatNobodyWantsAnyMoreIsUndone) {
  ServeTwo("8 in_place");
  loader_.gate("m").Close();
  Replace("m", "three");
  loader_.gate("m").AwaitHeld();
  ASSERT_TRUE(reloader_->Unload("m").ok());
  loader_.gate("m").Open();
  ASSERT_TRUE(Await([&] { return loader_.undone() == 1; }));
  EXPECT_EQ(Served("m"), "(nothing)");
}

TEST_F(VersionsTest, FailedOverwriteLeavesTheVersionOrRetiresItLoudly) {
  ServeTwo("8 in_place");
  Replace("m", "undone");
  ASSERT_TRUE(AwaitError("m", "the batch did not run"));
  EXPECT_EQ(Served("m"), "two");
  Replace("m", "lost");
  ASSERT_TRUE(Await([&] { return Served("m") == "(nothing)"; }));
  EXPECT_THAT(Error("m"), HasSubstr("its weights are lost"));
  Replace("m", "four");
  ASSERT_TRUE(AwaitServed("m", "four"));
  EXPECT_EQ(Error("m"), "");
}

TEST_F(VersionsTest, WhatDoesNotFitIsCountedApart) {
  Replace("m", "huge");
  Start();
  ASSERT_TRUE(AwaitError("m", "no room"));
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("outcome=\"no_memory\""));
}

TEST_F(VersionsTest, RefusedFileIsKnownAfterOthersWereThere) {
  dir_.Write("models/m/a.pth", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  dir_.Rename("models/m/a.pth", "one");
  dir_.Write("bad", "bad");
  dir_.Rename("bad", "models/m/a.pth");
  ASSERT_TRUE(AwaitError("m", "it is bad"));
  dir_.Write("two", "two");
  dir_.Rename("models/m/a.pth", "bad");
  dir_.Rename("two", "models/m/a.pth");
  ASSERT_TRUE(AwaitServed("m", "two"));
  const int loads = loader_.loads("m");
  dir_.Rename("bad", "models/m/a.pth");
  ASSERT_TRUE(Await([&] { return loader_.loads("m") == loads + 1 || Error("m") != ""; }));
  EXPECT_EQ(Served("m"), "two");
}

}  // namespace
}  // namespace sconce
