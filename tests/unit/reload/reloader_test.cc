#include "server/reload/reloader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/fake_replica.h"
#include "tests/support/temp_dir.h"

namespace sconce {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A config.pbtxt of these tests is one number: the largest batch.
absl::StatusOr<ModelConfig> ParseNumber(const std::string& path) {
  ModelConfig config;
  std::ifstream file(path);
  if (!(file >> config.max_batch_size)) return absl::InvalidArgumentError("config.pbtxt:1:1: bad");
  return config;
}

// A weights file of these tests is one word, which becomes the weights id. "bad..." cannot be
// served, "wide..." has other tensors, "other..." another architecture.
class FakeLoader : public VersionLoader {
 public:
  absl::StatusOr<std::unique_ptr<ModelVersion>> Load(const LoadRequest& request) override {
    const std::string word = Contents(request.weights_path);
    Gate* gate = nullptr;
    absl::Status failure;
    {
      MutexLock lock(&mutex_);
      ++loads_[request.model];
      gate = &gates_[request.model];
      if (failures_[request.model] > 0) {
        --failures_[request.model];
        failure = absl::UnavailableError("the disk is tired");
      }
    }
    gate->Pass();
    request.on_phase(LoadPhase::kRead, milliseconds(1));
    if (!failure.ok()) return failure;
    if (word.rfind("bad", 0) == 0) return absl::InvalidArgumentError("model.pth: it is " + word);
    auto version = MakeFakeVersion(request.model, request.number, {});
    version->weights_id = word;
    version->weights_path = request.weights_path;
    version->config = request.config;
    version->architecture = word.rfind("other", 0) == 0 ? "mlp(hidden=2)" : "linear(in=1)";
    if (word.rfind("wide", 0) == 0) version->signature.outputs[0].dims = {1000};
    return version;
  }

  Gate& gate(const std::string& model) {
    MutexLock lock(&mutex_);
    return gates_[model];
  }
  void FailNext(const std::string& model, int times) {
    MutexLock lock(&mutex_);
    failures_[model] = times;
  }
  int loads(const std::string& model) {
    MutexLock lock(&mutex_);
    return loads_[model];
  }

 private:
  Mutex mutex_;
  std::map<std::string, Gate> gates_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int> failures_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int> loads_ ABSL_GUARDED_BY(mutex_);
};

// What was served, in order; a model that is retired or gone shows as "-".
class History : public RegistryObserver {
 public:
  void OnModelAdded(const std::shared_ptr<Model>&) override {}
  void OnModelRemoved(const std::shared_ptr<Model>& model) override {
    removals_.Pass();
    Add(model->name(), nullptr);
  }
  void OnModelChanged(const std::shared_ptr<Model>& model) override {
    Add(model->name(), model->Pin());
  }
  void OnReadyChanged(bool ready) override { ready_ = ready; }

  std::vector<std::string> Of(const std::string& model) {
    MutexLock lock(&mutex_);
    return served_[model];
  }
  // Closed: a removal takes long, as it does while a batch is computed.
  Gate& removals() { return removals_; }
  // Of every model, numbers only ever rose.
  bool only_rose() const { return only_rose_; }
  bool ready() const { return ready_; }

 private:
  void Add(const std::string& model, const std::shared_ptr<const ModelVersion>& version) {
    MutexLock lock(&mutex_);
    served_[model].push_back(version == nullptr ? "-" : version->weights_id);
    if (version == nullptr) return;
    if (version->number <= last_[model]) only_rose_ = false;
    last_[model] = version->number;
  }

  Mutex mutex_;
  std::map<std::string, std::vector<std::string>> served_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int64_t> last_ ABSL_GUARDED_BY(mutex_);
  Gate removals_;
  std::atomic<bool> only_rose_{true};
  std::atomic<bool> ready_{false};
};

class ReloaderTest : public testing::Test {
 protected:
  ReloaderTest() {
    options_.repository = dir_.Path("models");
    options_.times = {.settle = milliseconds(20),
                      .forced_settle = milliseconds(5),
                      .first_retry = milliseconds(10),
                      .last_retry = milliseconds(40)};
    options_.watch = {.poll_interval = milliseconds(10), .use_inotify = false};
    dir_.MakeFolder("models");
    registry_.AddObserver(&history_);
  }
  ~ReloaderTest() override {
    reloader_.reset();
    EXPECT_TRUE(history_.only_rose());
  }

  void Start() {
    reloader_ = std::make_unique<Reloader>(options_, ParseNumber, &loader_, &registry_, &reaper_,
                                           &metrics_);
    reloader_->Start();
  }

  // As a careful writer does it.
  void Replace(const std::string& model, const std::string& word) {
    dir_.Write("staging", word);
    dir_.MakeFolder("models/" + model);
    dir_.Rename("staging", "models/" + model + "/model.pth");
  }

  std::string Served(const std::string& model) {
    const std::shared_ptr<Model> found = registry_.Find(model);
    if (found == nullptr) return "(gone)";
    const std::shared_ptr<const ModelVersion> live = found->Pin();
    return live == nullptr ? "(nothing)" : live->weights_id;
  }
  int64_t Number(const std::string& model) { return registry_.Find(model)->Pin()->number; }
  std::string Error(const std::string& model) {
    const std::shared_ptr<Model> found = registry_.Find(model);
    return found == nullptr ? "" : found->progress().last_error;
  }

  static bool Await(const std::function<bool()>& condition) {
    const TimePoint deadline = Clock::Real()->Now() + seconds(20);
    while (!condition()) {
      if (Clock::Real()->Now() > deadline) return false;
      std::this_thread::sleep_for(milliseconds(1));
    }
    return true;
  }
  // Also waits until observers know.
  bool AwaitServed(const std::string& model, const std::string& word) {
    return Await([&] {
      const std::vector<std::string> served = history_.Of(model);
      return Served(model) == word && !served.empty() &&
             served.back() == (word == "(gone)" ? "-" : word);
    });
  }
  bool AwaitError(const std::string& model, const std::string& part) {
    return Await([&] { return Error(model).find(part) != std::string::npos; });
  }
  // Returns when the repository has been looked at, and settled, since the call.
  void LetThePolicyWork() {
    static int beacons = 0;
    const std::string beacon = "beacon" + std::to_string(++beacons);
    Replace(beacon, "b");
    ASSERT_TRUE(AwaitServed(beacon, "b"));
  }

  TempDir dir_;
  Reloader::Options options_;
  FakeLoader loader_;
  Metrics metrics_;
  Reaper reaper_;
  History history_;
  Registry registry_;
  std::unique_ptr<Reloader> reloader_;
};

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
  for (const std::string phase : {"settle", "read", "publish"}) {
    EXPECT_THAT(metrics, HasSubstr("sconce_load_phase_seconds_count{model=\"m\",phase=\"" + phase +
                                   "\"} 1"));
  }
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
  EXPECT_EQ(reloader_->Load("m").code(), absl::StatusCode::kNotFound);
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
    EXPECT_EQ(reloader_->Load("m").code(), absl::StatusCode::kUnavailable);
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
  EXPECT_EQ(reloader_->Load("m").code(), absl::StatusCode::kFailedPrecondition);
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
  EXPECT_TRUE(reloader_->Load("m").ok());
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
  EXPECT_TRUE(reloader_->Load("m").ok());
  EXPECT_EQ(Number("m"), 2);
}

TEST_F(ReloaderTest, LoadFindsAFolderThatNoLookHasSeen) {
  options_.watch = {.poll_interval = hours(1), .use_inotify = false};
  Start();
  EXPECT_EQ(reloader_->Load("m").code(), absl::StatusCode::kNotFound);
  Replace("m", "one");
  EXPECT_TRUE(reloader_->Load("m").ok());
  EXPECT_EQ(Served("m"), "one");
}

TEST_F(ReloaderTest, LoadSaysWhyItFailed) {
  dir_.MakeFolder("models/empty");
  Replace("m", "bad");
  Start();
  EXPECT_EQ(reloader_->Load("empty").code(), absl::StatusCode::kNotFound);
  for (int i = 0; i < 3; ++i) {
    const absl::Status status = reloader_->Load("m");
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("it is bad"));
  }
  const absl::Status status = reloader_->Load("no\nsuch");
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
  EXPECT_TRUE(reloader_->Load("m").ok());
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
  std::thread caller([&] { loaded = reloader_->Load("m"); });
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
  std::thread caller([&] { loaded = reloader_->Load("m"); });
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
  EXPECT_EQ(reloader_->Load("m").code(), absl::StatusCode::kUnavailable);
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
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(reloader_->Load("m").ok());
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
        (void)reloader_->Load(model);
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
    (void)reloader_->Load(model);
    EXPECT_TRUE(AwaitServed(model, "last")) << model << ": " << Error(model);
  }
}

}  // namespace
}  // namespace sconce
