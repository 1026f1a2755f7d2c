// Modes, pins, the state file, loads that bring their own weights, jitter.

#include "tests/unit/reload/reloader_fixture.h"

namespace sconce {
namespace {

class ModesTest : public ReloaderTest {
 protected:
  ModesTest() { options_.state_file = dir_.Path("state.json"); }
};

TEST_F(ModesTest, CommandLoadsWhatIsAskedForAndAgainAfterARestart) {
  numbers_only_rise_ = false;
  options_.control = ControlMode::kCommand;
  Replace("m", "one");
  Replace("n", "one");
  Start();
  ASSERT_TRUE(Await([&] { return registry_.Ready(); }));
  ASSERT_TRUE(AwaitError("n", "RepositoryModelLoad"));
  ASSERT_TRUE(Load("m").ok());
  EXPECT_EQ(Served("m"), "one");
  Replace("m", "two");
  ASSERT_TRUE(Load("n").ok());
  ASSERT_TRUE(reloader_->Unload("n").ok());
  EXPECT_EQ(Served("m"), "one") << "the folder is not followed";
  Restart();
  ASSERT_TRUE(AwaitServed("m", "two"));
  EXPECT_EQ(Number("m"), 2);
  EXPECT_EQ(Served("n"), "(nothing)");
  dir_.Remove("models/m");
  EXPECT_EQ(Load("m").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Served("m"), "two");
}

TEST_F(ModesTest, FixedServesWhatWasThereAtTheStart) {
  options_.control = ControlMode::kFixed;
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  Replace("m", "two");
  Replace("late", "one");
  EXPECT_EQ(Load("m").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(reloader_->Unload("m").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(reloader_->SetPinned("m", true).code(), absl::StatusCode::kFailedPrecondition);
  // Some looks at the repository.
  const TimePoint long_enough = Clock::Real()->Now() + 10 * options_.watch.poll_interval;
  ASSERT_TRUE(Await([&] { return Clock::Real()->Now() > long_enough; }));
  EXPECT_EQ(Served("m"), "one");
  EXPECT_EQ(Served("late"), "(gone)");
}

TEST_F(ModesTest, PinnedModelDoesNotFollowUntilItIsAsked) {
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  ASSERT_TRUE(reloader_->SetPinned("m", true).ok());
  EXPECT_TRUE(StatusOf("m").pinned);
  Replace("m", "two");
  LetThePolicyWork();
  EXPECT_EQ(Served("m"), "one");
  ASSERT_TRUE(Load("m").ok());
  EXPECT_EQ(Served("m"), "two");
  Replace("m", "three");
  LetThePolicyWork();
  EXPECT_EQ(Served("m"), "two");
  ASSERT_TRUE(reloader_->SetPinned("m", false).ok());
  ASSERT_TRUE(AwaitServed("m", "three"));
}

TEST_F(ModesTest, PinOvertakesALoadThatNobodyAskedFor) {
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  loader_.gate("m").Close();
  Replace("m", "two");
  loader_.gate("m").AwaitHeld();
  ASSERT_TRUE(reloader_->SetPinned("m", true).ok());
  loader_.gate("m").Open();
  ASSERT_TRUE(Await([&] { return Records("m") == "published:one rejected:?"; }));
  EXPECT_EQ(Served("m"), "one");
  ASSERT_TRUE(reloader_->SetPinned("m", false).ok());
  EXPECT_TRUE(AwaitServed("m", "two"));
}

TEST_F(ModesTest, PinnedModelComesBackAfterARestartOnlyAsItWas) {
  numbers_only_rise_ = false;
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  ASSERT_TRUE(reloader_->SetPinned("m", true).ok());
  Restart();
  ASSERT_TRUE(AwaitServed("m", "one"));
  EXPECT_EQ(Number("m"), 1);
  Replace("m", "two");
  Restart();
  ASSERT_TRUE(AwaitError("m", "pinned to the weights one"));
  EXPECT_EQ(Served("m"), "(nothing)");
  ASSERT_TRUE(reloader_->SetPinned("m", false).ok());
  ASSERT_TRUE(AwaitServed("m", "two"));
}

TEST_F(ModesTest, NumbersAndRefusalsSurviveARestart) {
  numbers_only_rise_ = false;
  Replace("m", "one");
  Replace("r", "bad");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  Replace("m", "two");
  ASSERT_TRUE(AwaitServed("m", "two"));
  ASSERT_TRUE(AwaitError("r", "it is bad"));
  Restart();
  ASSERT_TRUE(AwaitServed("m", "two"));
  EXPECT_EQ(Number("m"), 2) << "the same weights have the same number";
  ASSERT_TRUE(AwaitError("r", "it is bad"));
  EXPECT_EQ(loader_.loads("r"), 1);
  Replace("m", "three");
  ASSERT_TRUE(AwaitServed("m", "three"));
  EXPECT_EQ(Number("m"), 3);
}

TEST_F(ModesTest, RollbackAndUnloadSurviveARestart) {
  numbers_only_rise_ = false;
  Replace("m", "one");
  Replace("u", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  Replace("m", "two");
  ASSERT_TRUE(AwaitServed("m", "two"));
  ASSERT_TRUE(reloader_->Rollback("m", 0).ok());
  ASSERT_TRUE(AwaitServed("u", "one"));
  ASSERT_TRUE(reloader_->Unload("u").ok());
  Restart();
  ASSERT_TRUE(AwaitError("m", "rolled back to version 1"));
  EXPECT_EQ(Served("m"), "(nothing)");
  ASSERT_TRUE(AwaitError("u", "unloaded"));
  Replace("m", "one");
  ASSERT_TRUE(AwaitServed("m", "one"));
  EXPECT_EQ(Number("m"), 3) << "number 2 was other weights";
}

TEST_F(ModesTest, BrokenStateFileIsLeftAsItIs) {
  dir_.Write("state.json", "nonsense");
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  ASSERT_TRUE(reloader_->SetPinned("m", true).ok());
  reloader_->Stop();
  EXPECT_EQ(Contents(dir_.Path("state.json")), "nonsense");
}

TEST_F(ModesTest, StateFileThatCannotBeWrittenChangesNothingElse) {
  options_.state_file = dir_.Path("no_such_folder/state.json");
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  Replace("m", "two");
  ASSERT_TRUE(AwaitServed("m", "two"));
}

TEST_F(ModesTest, LoadBringsItsOwnWeightsAndTheFolderIsNotFollowed) {
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  ASSERT_TRUE(reloader_->Load("m", {.config_json = "", .files = {{"w.pth", "inline"}}}).ok());
  EXPECT_EQ(Served("m"), "inline");
  EXPECT_EQ(Number("m"), 2);
  EXPECT_TRUE(StatusOf("m").inline_weights);
  Replace("m", "two");
  LetThePolicyWork();
  EXPECT_EQ(Served("m"), "inline");
  ASSERT_TRUE(Load("m").ok());
  EXPECT_EQ(Served("m"), "two");
  EXPECT_FALSE(StatusOf("m").inline_weights);
  Replace("m", "three");
  EXPECT_TRUE(AwaitServed("m", "three"));
}

TEST_F(ModesTest, LoadBringsAModelWithoutAFolder) {
  Start();
  ASSERT_TRUE(reloader_->Load("new", {.config_json = "9", .files = {{"w.pth", "inline"}}}).ok());
  EXPECT_EQ(Served("new"), "inline");
  EXPECT_EQ(registry_.Find("new")->Pin()->config.max_batch_size, 9);
  LetThePolicyWork();
  EXPECT_EQ(Served("new"), "inline");
  ASSERT_TRUE(reloader_->Unload("new").ok());
  EXPECT_TRUE(Await([&] { return Served("new") == "(gone)"; }));
  EXPECT_FALSE(reloader_->Load("worse", {.config_json = "", .files = {{"w.pth", "bad"}}}).ok());
  EXPECT_TRUE(Await([&] { return Served("worse") == "(gone)"; }));
  EXPECT_EQ(reloader_->Load("../x", {.config_json = "", .files = {{"w.pth", "a"}}}).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(ModesTest, LoadBringsAConfigurationForTheFoldersWeights) {
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  ASSERT_TRUE(reloader_->Load("m", {.config_json = "5", .files = {}}).ok());
  EXPECT_EQ(Served("m"), "one");
  EXPECT_EQ(registry_.Find("m")->Pin()->config.max_batch_size, 5);
  EXPECT_EQ(reloader_->Load("m", {.config_json = "nonsense", .files = {}}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(reloader_->Load("no", {.config_json = "5", .files = {}}).code(),
            absl::StatusCode::kNotFound);
}

TEST_F(ModesTest, JitterDelaysNewFilesButNotTheStartNorAnOperator) {
  options_.times.jitter = hours(1);
  std::atomic<int> drawn{0};
  options_.random = [&drawn] {
    ++drawn;
    return 0.5;
  };
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  EXPECT_EQ(drawn, 0);
  Replace("m", "two");
  ASSERT_TRUE(Await([&] { return drawn == 1; }));
  ASSERT_TRUE(Await([&] { return Records("m") == "published:one settling:?"; }));
  EXPECT_EQ(Served("m"), "one");
  ASSERT_TRUE(Load("m").ok());
  EXPECT_EQ(Served("m"), "two");
}

TEST_F(ModesTest, GoldenSamplesAreGivenToTheLoader) {
  Replace("m", "one");
  dir_.Write("models/m/golden/a.safetensors", "sample");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  EXPECT_THAT(loader_.golden(), testing::ElementsAre(dir_.Path("models/m/golden/a.safetensors")));
}

TEST_F(ModesTest, StatusTellsOfAllModels) {
  Replace("m", "one");
  Replace("n", "bad");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  ASSERT_TRUE(AwaitError("n", "it is bad"));
  const auto all = reloader_->Status("");
  ASSERT_TRUE(all.ok());
  ASSERT_EQ(all->size(), 2u);
  EXPECT_EQ(all->at(0).model, "m");
  EXPECT_THAT(all->at(1).last_error, HasSubstr("it is bad"));
  EXPECT_EQ(all->at(1).versions.back().state, VersionState::kRejected);
  EXPECT_EQ(reloader_->Status("no").status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace sconce
