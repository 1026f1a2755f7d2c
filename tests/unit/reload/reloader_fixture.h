// What the tests of the reloader share: a loader without torch, a history of what was served, and a
// repository on disk. Each test has its own.

#ifndef SCONCE_TESTS_UNIT_RELOAD_RELOADER_FIXTURE_H_
#define SCONCE_TESTS_UNIT_RELOAD_RELOADER_FIXTURE_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "server/reload/reloader.h"
#include "tests/support/fake_replica.h"
#include "tests/support/temp_dir.h"

namespace sconce {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;

inline std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A config.pbtxt of these tests is one number, the largest batch, and words: "8 retain 2 manual".
inline absl::StatusOr<ModelConfig> ParseWords(std::istream& text) {
  ModelConfig config;
  if (!(text >> config.max_batch_size)) return absl::InvalidArgumentError("config.pbtxt:1:1: bad");
  for (std::string word; text >> word;) {
    if (word == "retain") text >> config.retained_versions;
    if (word == "manual") config.manual_promotion = true;
    if (word == "in_place") config.swap = SwapMode::kInPlace;
    if (word == "canary") {
      int64_t ms = 0;
      text >> config.canary.share >> ms;
      config.canary.duration = milliseconds(ms);
    }
    if (word == "latest") text >> config.version_policy.latest;
    if (word == "all") config.version_policy.kind = VersionPolicy::Kind::kAll;
    if (word == "specific") {
      config.version_policy.kind = VersionPolicy::Kind::kSpecific;
      for (int64_t number; text >> number;) config.version_policy.specific.push_back(number);
    }
  }
  return config;
}

inline absl::StatusOr<ModelConfig> ParseConfig(const std::string& path) {
  std::ifstream file(path);
  return ParseWords(file);
}

inline absl::StatusOr<ModelConfig> ParseJson(const std::string& json, const std::string&) {
  std::istringstream text(json);
  return ParseWords(text);
}

// A weights file of these tests is one word, which becomes the weights id. "bad..." cannot be
// served, "wide..." has other tensors, "other..." another architecture, "large..." has no room as
// long as versions are retained. Where the configuration wants it, weights are written over those
// that answer; of "lost..." and "undone..." that comes to nothing.
class FakeLoader : public VersionLoader {
 public:
  absl::StatusOr<LoadedVersion> Load(const LoadRequest& request) override {
    const std::string word = Contents(request.weights_path);
    Gate* gate = nullptr;
    absl::Status failure;
    {
      MutexLock lock(&mutex_);
      ++loads_[request.model];
      golden_ = request.golden_paths;
      gate = &gates_[request.model];
      if (failures_[request.model] > 0) {
        --failures_[request.model];
        failure = absl::UnavailableError("the disk is tired");
      }
    }
    gate->Pass();
    request.on_step(VersionState::kStructureChecked, milliseconds(1));
    if (StartsWith(word, "large")) {
      while (request.release_retained(Retained::kOfAnyModel)) ++released_;
    }
    if (StartsWith(word, "huge")) return absl::ResourceExhaustedError("no room");
    request.on_step(VersionState::kAdmitted, milliseconds(1));
    request.on_step(VersionState::kRead, milliseconds(1));
    if (!failure.ok()) return failure;
    if (StartsWith(word, "bad")) return absl::InvalidArgumentError("model.pth: it is " + word);
    LoadedVersion loaded;
    loaded.version = MakeFakeVersion(request.model, request.number, {});
    loaded.version->weights_id = word;
    loaded.version->weights_path = request.weights_path;
    loaded.version->config = request.config;
    loaded.version->weights_bytes = 100;
    loaded.version->shared_bytes = 40;
    loaded.version->architecture = StartsWith(word, "other") ? "mlp(hidden=2)" : "linear(in=1)";
    if (StartsWith(word, "wide")) loaded.version->signature.outputs[0].dims = {1000};
    if (request.live != nullptr) {
      loaded.in_place = std::make_unique<Change>(
          &committed_, &undone_,
          StartsWith(word, "lost") ? request.retire_live : [](const std::string&) {});
    }
    request.on_step(VersionState::kChecked, milliseconds(1));
    if (StartsWith(word, "undone") || StartsWith(word, "lost")) {
      return absl::InvalidArgumentError("the batch did not run");
    }
    return loaded;
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
  // Of the last load.
  std::vector<std::string> golden() {
    MutexLock lock(&mutex_);
    return golden_;
  }
  int released() const { return released_; }
  int committed() const { return committed_; }
  int undone() const { return undone_; }

 private:
  class Change : public InPlaceChange {
   public:
    Change(std::atomic<int>* committed, std::atomic<int>* undone,
           std::function<void(const std::string&)> retire)
        : committed_(committed), undone_(undone), retire_(std::move(retire)) {}
    ~Change() override {
      if (done_) return;
      ++*undone_;
      retire_("its weights are lost");
    }
    void Commit() override {
      done_ = true;
      ++*committed_;
    }

   private:
    std::atomic<int>* const committed_;
    std::atomic<int>* const undone_;
    const std::function<void(const std::string&)> retire_;
    bool done_ = false;
  };

  static bool StartsWith(const std::string& word, const std::string& start) {
    return word.rfind(start, 0) == 0;
  }

  std::atomic<int> released_{0};
  std::atomic<int> committed_{0};
  std::atomic<int> undone_{0};
  Mutex mutex_;
  std::map<std::string, Gate> gates_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int> failures_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int> loads_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> golden_ ABSL_GUARDED_BY(mutex_);
};

// The fake loader holds no batches.
class NoGate : public ExecutionGate {
 public:
  absl::StatusOr<std::unique_ptr<BatchHold>> HoldBatches(const std::string&, Duration) override {
    return absl::UnimplementedError("");
  }
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
    // The versions beside the live one may be all that has changed.
    if (version != nullptr && version == live_[model].lock()) return;
    live_[model] = version;
    served_[model].push_back(version == nullptr ? "-" : version->weights_id);
    if (version == nullptr) return;
    if (version->number <= last_[model]) only_rose_ = false;
    last_[model] = version->number;
  }

  Mutex mutex_;
  std::map<std::string, std::vector<std::string>> served_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::weak_ptr<const ModelVersion>> live_ ABSL_GUARDED_BY(mutex_);
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
    EXPECT_TRUE(history_.only_rose() || !numbers_only_rise_);
  }

  void Start() {
    reloader_ = std::make_unique<Reloader>(
        options_, Reloader::Parsers{.file = ParseConfig, .json = ParseJson}, &loader_, &registry_,
        &reaper_, &gate_, &metrics_);
    reloader_->Start();
  }

  // A server that is started anew on the same repository.
  void Restart() {
    reloader_.reset();
    for (const auto& model : registry_.Models()) registry_.Remove(model->name());
    Start();
  }

  // As a careful writer does it.
  void Replace(const std::string& model, const std::string& word) {
    dir_.Write("staging", word);
    dir_.MakeFolder("models/" + model);
    dir_.Rename("staging", "models/" + model + "/model.pth");
  }

  // The weights of a numbered folder.
  void ReplaceNumbered(const std::string& model, int number, const std::string& word) {
    Replace(model + "/" + std::to_string(number), word);
  }
  void Configure(const std::string& model, const std::string& words) {
    dir_.Write("staging", words);
    dir_.MakeFolder("models/" + model);
    dir_.Rename("staging", "models/" + model + "/config.pbtxt");
  }
  absl::Status Load(const std::string& model) { return reloader_->Load(model, {}); }
  ModelStatus StatusOf(const std::string& model) {
    const auto status = reloader_->Status(model);
    return status.ok() ? status->at(0) : ModelStatus();
  }
  // "published:one retained:zero", the newest last.
  std::string Records(const std::string& model) {
    std::string text;
    for (const VersionRecord& record : StatusOf(model).versions) {
      if (!text.empty()) text += ' ';
      text += std::string(VersionStateName(record.state)) + ":" +
              (record.weights_id.empty() ? "?" : record.weights_id);
    }
    return text;
  }
  // "1 2": those that answer by their number, the live one last.
  std::string Numbers(const std::string& model) {
    const Serving serving = registry_.Find(model)->serving();
    std::string text;
    for (const auto& [number, version] : serving.others) text += std::to_string(number) + " ";
    return serving.live == nullptr ? "" : text + std::to_string(serving.live->number);
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
  NoGate gate_;
  std::unique_ptr<Reloader> reloader_;
  bool numbers_only_rise_ = true;
};

}  // namespace sconce

#endif  // SCONCE_TESTS_UNIT_RELOAD_RELOADER_FIXTURE_H_
