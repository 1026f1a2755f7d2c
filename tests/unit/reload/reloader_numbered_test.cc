// Models whose folder holds numbered ones.

#include "tests/unit/reload/reloader_fixture.h"

namespace sconce {
namespace {

class NumberedTest : public ReloaderTest {
 protected:
  NumberedTest() { numbers_only_rise_ = false; }
};

TEST_F(NumberedTest, HighestNumberAnswersAndTheOneBeforeIsRetained) {
  ReplaceNumbered("m", 3, "three");
  ReplaceNumbered("m", 1, "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "three"));
  EXPECT_EQ(Numbers("m"), "3");
  ReplaceNumbered("m", 10, "ten");
  ASSERT_TRUE(AwaitServed("m", "ten"));
  ASSERT_TRUE(Await([&] { return Numbers("m") == "10"; }));
  EXPECT_EQ(Records("m"), "retained:three published:ten");
  EXPECT_EQ(loader_.loads("m"), 2) << "nobody wants number 1";
}

TEST_F(NumberedTest, SeveralAnswerByTheirNumber) {
  Configure("m", "8 latest 2");
  for (int i = 1; i <= 3; ++i) ReplaceNumbered("m", i, "w" + std::to_string(i));
  Start();
  ASSERT_TRUE(Await([&] { return registry_.Find("m") != nullptr && Numbers("m") == "2 3"; }));
  EXPECT_EQ(registry_.Find("m")->Pin(2)->weights_id, "w2");
  Configure("m", "8 all");
  ASSERT_TRUE(Await([&] { return Numbers("m") == "1 2 3"; }));
  Configure("m", "8 specific 1 3");
  ASSERT_TRUE(Await([&] { return Numbers("m") == "1 3"; }));
}

TEST_F(NumberedTest, LowerNumberThatAppearsLaterIsLoadedIfItIsWanted) {
  Configure("m", "8 all");
  ReplaceNumbered("m", 5, "five");
  Start();
  ASSERT_TRUE(AwaitServed("m", "five"));
  ReplaceNumbered("m", 2, "two");
  ASSERT_TRUE(Await([&] { return Numbers("m") == "2 5"; }));
  EXPECT_EQ(Served("m"), "five");
}

TEST_F(NumberedTest, RefusedNumberLeavesTheOneBefore) {
  ReplaceNumbered("m", 1, "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  ReplaceNumbered("m", 2, "bad");
  ASSERT_TRUE(AwaitError("m", "version 2: model.pth: it is bad"));
  LetThePolicyWork();
  EXPECT_EQ(Numbers("m"), "1");
  EXPECT_EQ(loader_.loads("m"), 2);
  ReplaceNumbered("m", 2, "two");
  ASSERT_TRUE(AwaitServed("m", "two"));
  EXPECT_EQ(Error("m"), "");
}

TEST_F(NumberedTest, StartFallsBackToTheHighestThatCanBeServed) {
  ReplaceNumbered("m", 1, "one");
  ReplaceNumbered("m", 2, "bad");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  EXPECT_TRUE(Await([&] { return registry_.Ready(); }));
}

TEST_F(NumberedTest, FilesOfANumberAreReplacedUnderTheSameNumber) {
  ReplaceNumbered("m", 4, "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  ReplaceNumbered("m", 4, "two");
  ASSERT_TRUE(AwaitServed("m", "two"));
  EXPECT_EQ(Number("m"), 4);
  ReplaceNumbered("m", 4, "bad");
  ASSERT_TRUE(AwaitError("m", "it is bad"));
  EXPECT_EQ(Served("m"), "two");
}

TEST_F(NumberedTest, RemovedNumberMakesWayForTheOneBelow) {
  ReplaceNumbered("m", 1, "one");
  ReplaceNumbered("m", 2, "two");
  Start();
  ASSERT_TRUE(AwaitServed("m", "two"));
  dir_.Remove("models/m/2");
  ASSERT_TRUE(AwaitServed("m", "one"));
  ASSERT_TRUE(Await([&] { return Numbers("m") == "1"; }));
}

TEST_F(NumberedTest, RollbackGoesBelowWhatIsThere) {
  ReplaceNumbered("m", 1, "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  ReplaceNumbered("m", 2, "two");
  ASSERT_TRUE(AwaitServed("m", "two"));
  ASSERT_TRUE(Await([&] { return Numbers("m") == "2"; }));
  EXPECT_EQ(*reloader_->Rollback("m", 0), 1);
  LetThePolicyWork();
  EXPECT_EQ(Numbers("m"), "1");
  ReplaceNumbered("m", 3, "three");
  ASSERT_TRUE(AwaitServed("m", "three"));
  EXPECT_TRUE(Await([&] { return Numbers("m") == "3"; }));
}

TEST_F(NumberedTest, LoadTakesEveryWantedNumberAgain) {
  Configure("m", "8 latest 2");
  for (int i = 1; i <= 3; ++i) ReplaceNumbered("m", i, "w" + std::to_string(i));
  Start();
  ASSERT_TRUE(Await([&] { return registry_.Find("m") != nullptr && Numbers("m") == "2 3"; }));
  ASSERT_TRUE(Load("m").ok());
  EXPECT_EQ(loader_.loads("m"), 4);
  ReplaceNumbered("m", 3, "bad");
  EXPECT_EQ(Load("m").code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(NumberedTest, NumbersTakeOverFromASingleFile) {
  Replace("m", "single");
  Start();
  ASSERT_TRUE(AwaitServed("m", "single"));
  dir_.Remove("models/m/model.pth");
  ReplaceNumbered("m", 7, "seven");
  ASSERT_TRUE(AwaitServed("m", "seven"));
  EXPECT_EQ(Numbers("m"), "7");
}

}  // namespace
}  // namespace sconce
