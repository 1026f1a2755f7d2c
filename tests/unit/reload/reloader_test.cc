#include "tests/unit/reload/reloader_fixture.h"

namespace sconce {
namespace {

TEST_F(ReloaderTest, FileBecomesAServedModel) {
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  EXPECT_EQ(Number("m"), 1);
  EXPECT_EQ(registry_.Find("m")->Pin()->weights_path, dir_.Path("models/m/model.pth"));
  EXPECT_TRUE(Await([&] { return history_.ready(); }));
  EXPECT_TRUE(Await([&] { return !registry_.Find("m")->progress().loading; }));
  reloader_->Stop();
  const std::string metrics = metrics_.Serialize();
  EXPECT_THAT(metrics, HasSubstr("sconce_loads_total{model=\"m\",outcome=\"published\"} 1"));
  EXPECT_THAT(metrics, HasSubstr("version=\"1\",weights_id=\"one\"} 1"));
  for (const std::string step : {"settling", "admitted", "read", "checked", "published"}) {
    EXPECT_THAT(metrics,
                HasSubstr("sconce_load_step_seconds_count{model=\"m\",step=\"" + step + "\"} 1"));
  }
  EXPECT_THAT(metrics, HasSubstr("sconce_versions{model=\"m\",state=\"published\"} 1"));
}

TEST_F(ReloaderTest, NewFileBecomesTheNextVersion) {
  Replace("m", "one");
  Start();
  for (const std::string word : {"one", "two", "three", "four"}) {
    Replace("m", word);
    ASSERT_TRUE(AwaitServed("m", word));
  }
  EXPECT_EQ(Number("m"), 4);
  EXPECT_THAT(history_.Of("m"), ElementsAre("one", "two", "three", "four"));
}

TEST_F(ReloaderTest, FileWrittenInPlaceBecomesTheNextVersion) {
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  dir_.Write("models/m/model.pth", "two");
  EXPECT_TRUE(AwaitServed("m", "two"));
}

TEST_F(ReloaderTest, InotifyAloneIsEnough) {
  options_.watch = {.poll_interval = hours(1), .use_inotify = true};
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  Replace("m", "two");
  ASSERT_TRUE(AwaitServed("m", "two"));
  dir_.Write("models/m/model.pth", "three");
  ASSERT_TRUE(AwaitServed("m", "three"));
  Replace("later", "one");
  ASSERT_TRUE(AwaitServed("later", "one"));
  dir_.Remove("models/m");
  ASSERT_TRUE(AwaitServed("m", "(gone)"));
}

TEST_F(ReloaderTest, ConfigMapFlipBecomesTheNextVersion) {
  options_.watch = {.poll_interval = hours(1), .use_inotify = true};
  dir_.Write("models/m/..2024_1/model.pth", "one");
  dir_.Link("..2024_1", "models/m/..data");
  dir_.Link("..data/model.pth", "models/m/model.pth");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  dir_.Write("models/m/..2024_2/model.pth", "two");
  dir_.Link("..2024_2", "models/m/..data_tmp");
  dir_.Rename("models/m/..data_tmp", "models/m/..data");
  dir_.Remove("models/m/..2024_1");
  ASSERT_TRUE(AwaitServed("m", "two"));
  EXPECT_THAT(history_.Of("m"), ElementsAre("one", "two"));
}

TEST_F(ReloaderTest, BadFileKeepsTheLastGoodVersionAndIsTriedOnce) {
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  Replace("m", "bad");
  ASSERT_TRUE(AwaitError("m", "model.pth: it is bad"));
  LetThePolicyWork();
  EXPECT_EQ(Served("m"), "one");
  EXPECT_EQ(loader_.loads("m"), 2);
  EXPECT_TRUE(registry_.Ready());
  EXPECT_THAT(metrics_.Serialize(),
              HasSubstr("sconce_loads_total{model=\"m\",outcome=\"rejected\"} 1"));
}

TEST_F(ReloaderTest, RepairedFileIsPickedUpAndTheErrorCleared) {
  Replace("m", "bad");
  Start();
  ASSERT_TRUE(AwaitError("m", "it is bad"));
  EXPECT_FALSE(registry_.Ready());
  dir_.Write("models/m/model.pth", "good");
  ASSERT_TRUE(AwaitServed("m", "good"));
  EXPECT_EQ(Error("m"), "");
  EXPECT_EQ(Number("m"), 1) << "a file that was refused takes no number";
  EXPECT_TRUE(Await([&] { return history_.ready(); }));
}

TEST_F(ReloaderTest, FailureThatMayPassIsTriedUntilItDoes) {
  loader_.FailNext("m", 5);
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  EXPECT_EQ(loader_.loads("m"), 6);
  EXPECT_THAT(metrics_.Serialize(),
              HasSubstr("sconce_loads_total{model=\"m\",outcome=\"retrying\"} 5"));
}

TEST_F(ReloaderTest, SlowModelDelaysNoOther) {
  loader_.gate("slow").Close();
  Replace("slow", "one");
  Replace("quick", "one");
  Start();
  loader_.gate("slow").AwaitHeld();
  EXPECT_TRUE(registry_.Find("slow")->progress().loading);
  for (const std::string word : {"one", "two", "three"}) {
    Replace("quick", word);
    ASSERT_TRUE(AwaitServed("quick", word));
  }
  EXPECT_EQ(Served("slow"), "(nothing)");
  loader_.gate("slow").Open();
  EXPECT_TRUE(AwaitServed("slow", "one"));
}

TEST_F(ReloaderTest, FileThatChangesWhileItIsReadIsNotServed) {
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  loader_.gate("m").Close();
  Replace("m", "halfway");
  loader_.gate("m").AwaitHeld();
  Replace("m", "whole");
  loader_.gate("m").Open();
  ASSERT_TRUE(AwaitServed("m", "whole"));
  EXPECT_THAT(history_.Of("m"), ElementsAre("one", "whole"));
}

TEST_F(ReloaderTest, ConfigThatAppearsWhileTheFileIsReadIsObeyed) {
  loader_.gate("m").Close();
  Replace("m", "one");
  Start();
  loader_.gate("m").AwaitHeld();
  dir_.Write("models/m/config.pbtxt", "7");
  loader_.gate("m").Open();
  ASSERT_TRUE(AwaitServed("m", "one"));
  EXPECT_EQ(registry_.Find("m")->Pin()->config.max_batch_size, 7);
}

TEST_F(ReloaderTest, RemovedFolderTakesTheModelWithItAndNumbersGoOn) {
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  dir_.Remove("models/m");
  ASSERT_TRUE(AwaitServed("m", "(gone)"));
  Replace("m", "two");
  ASSERT_TRUE(AwaitServed("m", "two"));
  EXPECT_EQ(Number("m"), 2);
  EXPECT_THAT(history_.Of("m"), ElementsAre("one", "-", "two"));
}

TEST_F(ReloaderTest, RemovalThatTakesLongDelaysNoOther) {
  Replace("slow", "one");
  Start();
  ASSERT_TRUE(AwaitServed("slow", "one"));
  history_.removals().Close();
  dir_.Remove("models/slow");
  history_.removals().AwaitHeld();
  Replace("quick", "one");
  EXPECT_TRUE(AwaitServed("quick", "one"));
  Replace("slow", "two");
  history_.removals().Open();
  EXPECT_TRUE(AwaitServed("slow", "two"));
}

TEST_F(ReloaderTest, FolderThatVanishesForAMomentIsServedOn) {
  options_.times.settle = milliseconds(300);
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  dir_.Rename("models/m", "aside");
  EXPECT_EQ(Load("m").code(), absl::StatusCode::kNotFound);
  dir_.Rename("aside", "models/m");
  LetThePolicyWork();
  EXPECT_THAT(history_.Of("m"), ElementsAre("one"));
}

TEST_F(ReloaderTest, WeightsThatAreGoneLeaveTheVersionServing) {
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  dir_.Remove("models/m/model.pth");
  ASSERT_TRUE(AwaitError("m", "no weights file yet"));
  EXPECT_EQ(Served("m"), "one");
}

TEST_F(ReloaderTest, RepositoryThatCannotBeReadLeavesEverythingServing) {
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  dir_.Rename("models", "elsewhere");
  // Each call is answered by a look of its own; a folder that is gone for that long is removed.
  const TimePoint long_enough = Clock::Real()->Now() + 5 * options_.times.settle;
  while (Clock::Real()->Now() < long_enough) {
    EXPECT_EQ(Load("m").code(), absl::StatusCode::kUnavailable);
  }
  EXPECT_EQ(Served("m"), "one");
  dir_.Rename("elsewhere", "models");
  Replace("m", "two");
  ASSERT_TRUE(AwaitServed("m", "two"));
  EXPECT_THAT(history_.Of("m"), ElementsAre("one", "two"));
}

TEST_F(ReloaderTest, SeveralFilesAreToldApartByTheOperator) {
  dir_.Write("models/m/a.pth", "a");
  dir_.Write("models/m/b.pth", "b");
  Start();
  ASSERT_TRUE(AwaitError("m", "a.pth, b.pth"));
  EXPECT_EQ(Load("m").code(), absl::StatusCode::kFailedPrecondition);
  dir_.Remove("models/m/b.pth");
  EXPECT_TRUE(AwaitServed("m", "a"));
}

TEST_F(ReloaderTest, BrokenConfigKeepsTheLastGoodVersion) {
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  dir_.Write("models/m/config.pbtxt", "nonsense");
  ASSERT_TRUE(AwaitError("m", "config.pbtxt:1:1: bad"));
  EXPECT_EQ(Served("m"), "one");
  dir_.Write("models/m/config.pbtxt", "9");
  ASSERT_TRUE(Await([&] { return registry_.Find("m")->Pin()->config.max_batch_size == 9; }));
  EXPECT_EQ(Error("m"), "");
}

TEST_F(ReloaderTest, OtherTensorsAreRefusedUntilTheOperatorAcceptsThem) {
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  Replace("m", "wide");
  ASSERT_TRUE(AwaitError("m", "RepositoryModelLoad"));
  EXPECT_THAT(Error("m"), HasSubstr("1000"));
  EXPECT_EQ(Served("m"), "one");
  EXPECT_TRUE(Load("m").ok());
  EXPECT_EQ(Served("m"), "wide");
  EXPECT_EQ(Error("m"), "");
}

TEST_F(ReloaderTest, OtherArchitectureIsAcceptedByAChangeOfTheConfig) {
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  Replace("m", "other");
  ASSERT_TRUE(AwaitError("m", "mlp"));
  dir_.Write("models/m/config.pbtxt", "8");
  ASSERT_TRUE(AwaitServed("m", "other"));
  // From here on the new one is what clients rely on.
  Replace("m", "one");
  ASSERT_TRUE(AwaitError("m", "linear"));
  EXPECT_EQ(Served("m"), "other");
}

TEST_F(ReloaderTest, LoadTakesAFileThatDidNotChange) {
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  EXPECT_TRUE(Load("m").ok());
  EXPECT_EQ(Number("m"), 2);
}

TEST_F(ReloaderTest, LoadFindsAFolderThatNoLookHasSeen) {
  options_.watch = {.poll_interval = hours(1), .use_inotify = false};
  Start();
  EXPECT_EQ(Load("m").code(), absl::StatusCode::kNotFound);
  Replace("m", "one");
  EXPECT_TRUE(Load("m").ok());
  EXPECT_EQ(Served("m"), "one");
}

TEST_F(ReloaderTest, LoadSaysWhyItFailed) {
  dir_.MakeFolder("models/empty");
  Replace("m", "bad");
  Start();
  EXPECT_EQ(Load("empty").code(), absl::StatusCode::kNotFound);
  for (int i = 0; i < 3; ++i) {
    const absl::Status status = Load("m");
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("it is bad"));
  }
  const absl::Status status = Load("no\nsuch");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message().find('\n'), absl::string_view::npos);
}

TEST_F(ReloaderTest, UnloadedModelStaysOutUntilItIsLoaded) {
  Replace("m", "one");
  Start();
  EXPECT_EQ(reloader_->Unload("unknown").code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(AwaitServed("m", "one"));
  ASSERT_TRUE(reloader_->Unload("m").ok());
  EXPECT_EQ(Served("m"), "(nothing)");
  EXPECT_THAT(Error("m"), HasSubstr("unloaded"));
  EXPECT_THAT(metrics_.Serialize(), testing::Not(HasSubstr("weights_id=\"one\"")));
  Replace("m", "two");
  LetThePolicyWork();
  EXPECT_EQ(Served("m"), "(nothing)");
  EXPECT_TRUE(Load("m").ok());
  EXPECT_EQ(Served("m"), "two");
  EXPECT_EQ(Number("m"), 2);
  EXPECT_EQ(Error("m"), "");
}

TEST_F(ReloaderTest, UnloadDoesNotWaitForALoadAndTheLoadIsNotPublished) {
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  loader_.gate("m").Close();
  absl::Status loaded;
  std::thread caller([&] { loaded = Load("m"); });
  loader_.gate("m").AwaitHeld();
  EXPECT_TRUE(reloader_->Unload("m").ok());
  EXPECT_EQ(Served("m"), "(nothing)");
  loader_.gate("m").Open();
  caller.join();
  EXPECT_EQ(loaded.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(Served("m"), "(nothing)");
  EXPECT_THAT(Error("m"), HasSubstr("unloaded"));
}

TEST_F(ReloaderTest, NothingIsPublishedAfterStopAndCallersAreLetGo) {
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  loader_.gate("m").Close();
  Replace("m", "two");
  loader_.gate("m").AwaitHeld();
  absl::Status loaded;
  std::thread caller([&] { loaded = Load("m"); });
  std::atomic<bool> stopped{false};
  std::thread stopper([&] {
    reloader_->Stop();
    stopped = true;
  });
  caller.join();
  EXPECT_EQ(loaded.code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(stopped) << "a load is in progress";
  loader_.gate("m").Open();
  stopper.join();
  EXPECT_THAT(history_.Of("m"), ElementsAre("one"));
  EXPECT_EQ(Load("m").code(), absl::StatusCode::kUnavailable);
}

TEST_F(ReloaderTest, ModelThatIsAddedLaterDoesNotMakeTheServerUnready) {
  Replace("m", "one");
  Start();
  ASSERT_TRUE(AwaitServed("m", "one"));
  Replace("late", "bad");
  ASSERT_TRUE(AwaitError("late", "bad"));
  EXPECT_TRUE(registry_.Ready());
}

TEST_F(ReloaderTest, RetiredVersionsAreFreed) {
  Replace("m", "one");
  Start();
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(Load("m").ok());
  EXPECT_TRUE(Await([&] { return reaper_.reaped() >= 9; }));
}

// Everything at once, for the sanitizers' sake; in the end each model serves what its folder holds.
TEST_F(ReloaderTest, ConvergesAfterATurmoil) {
  options_.times = {.settle = milliseconds(2),
                    .forced_settle = milliseconds(1),
                    .first_retry = milliseconds(1),
                    .last_retry = milliseconds(4)};
  options_.watch = {.poll_interval = milliseconds(2), .use_inotify = true};
  const std::vector<std::string> models = {"a", "b", "c", "d", "e", "f"};
  for (const std::string& model : models) Replace(model, "first");
  Start();
  std::vector<std::thread> operators;
  for (const std::string& model : models) {
    operators.emplace_back([this, model] {
      for (int i = 0; i < 30; ++i) {
        if (i % 3 == 0) (void)reloader_->Unload(model);
        (void)Load(model);
        if (i % 5 == 0) loader_.FailNext(model, 2);
      }
    });
  }
  for (int i = 0; i < 60; ++i) {
    for (const std::string& model : models) {
      if (i % 10 == 9) dir_.Remove("models/" + model);
      Replace(model, i % 4 == 0 ? "bad" : "word" + std::to_string(i));
    }
  }
  for (std::thread& thread : operators) thread.join();
  for (const std::string& model : models) {
    Replace(model, "last");
    // It may be unloaded still: an operator's last call may have found no folder.
    (void)Load(model);
    EXPECT_TRUE(AwaitServed(model, "last")) << model << ": " << Error(model);
  }
}

}  // namespace
}  // namespace sconce
