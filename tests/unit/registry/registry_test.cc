#include "server/registry/registry.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "server/registry/reaper.h"
#include "tests/support/fake_replica.h"

namespace sconce {
namespace {

class Recorder : public RegistryObserver {
 public:
  void OnModelAdded(const std::shared_ptr<Model>& m) override { seen.push_back("+" + m->name()); }
  void OnModelRemoved(const std::shared_ptr<Model>& m) override {
    seen.push_back("-" + m->name());
  }
  void OnModelChanged(const std::shared_ptr<Model>& m) override {
    const auto version = m->Pin();
    seen.push_back(m->name() + "/" + (version ? std::to_string(version->number) : "none"));
  }
  void OnReadyChanged(bool ready) override { seen.push_back(ready ? "ready" : "unready"); }

  std::vector<std::string> seen;
};

class RegistryTest : public ::testing::Test {
 protected:
  void Publish(const std::string& name, int64_t number) {
    registry_.Publish(registry_.Add(name), reaper_.Own(MakeFakeVersion(name, number, {})));
  }

  Reaper reaper_;
  Registry registry_;
};

// Tells, when it is destroyed, on which thread that happened.
class WitnessReplica : public FakeReplica {
 public:
  explicit WitnessReplica(std::thread::id* destroyed_on)
      : FakeReplica({}), destroyed_on_(destroyed_on) {}
  ~WitnessReplica() override { *destroyed_on_ = std::this_thread::get_id(); }

 private:
  std::thread::id* const destroyed_on_;
};

TEST_F(RegistryTest, PinnedVersionOutlivesItsSuccessor) {
  Publish("m", 1);
  const auto model = registry_.Find("m");
  const auto pinned = model->Pin();
  Publish("m", 2);
  EXPECT_EQ(model->Pin()->number, 2);
  EXPECT_EQ(pinned->number, 1);
  EXPECT_EQ(pinned->replicas.size(), 1u);
}

TEST_F(RegistryTest, LastPinHandsTheVersionToTheReaperThread) {
  std::thread::id destroyed_on;
  {
    auto version = MakeFakeVersion("m", 1, {});
    version->replicas.clear();
    version->replicas.push_back(std::make_unique<WitnessReplica>(&destroyed_on));
    registry_.Publish(registry_.Add("m"), reaper_.Own(std::move(version)));
  }
  auto pin = registry_.Find("m")->Pin();
  Publish("m", 2);
  EXPECT_EQ(reaper_.reaped(), 0);
  pin.reset();
  while (reaper_.reaped() == 0) std::this_thread::yield();
  EXPECT_NE(destroyed_on, std::thread::id());
  EXPECT_NE(destroyed_on, std::this_thread::get_id());
}

TEST_F(RegistryTest, ReadyOnceEveryModelOfTheFirstLookCanServe) {
  Recorder recorder;
  registry_.AddObserver(&recorder);
  EXPECT_FALSE(registry_.Ready());
  Publish("a", 1);
  EXPECT_FALSE(registry_.Ready()) << "the repository has not been looked at";
  registry_.SetInitialModels({"a", "b"});
  EXPECT_FALSE(registry_.Ready());
  Publish("b", 1);
  EXPECT_TRUE(registry_.Ready());
  EXPECT_EQ(recorder.seen,
            (std::vector<std::string>{"+a", "a/1", "+b", "b/1", "ready"}));
}

TEST_F(RegistryTest, ALaterModelThatCannotServeDoesNotMakeTheServerUnready) {
  Publish("a", 1);
  registry_.SetInitialModels({"a"});
  registry_.Add("broken")->SetProgress({false, "garbage"});
  EXPECT_TRUE(registry_.Ready());
  registry_.Retire(registry_.Find("a"));
  EXPECT_TRUE(registry_.Ready()) << "an operator's unload is no reason for a restart";
}

TEST_F(RegistryTest, ABrokenFirstModelThatIsRemovedIsNotWaitedFor) {
  registry_.Add("broken");
  registry_.SetInitialModels({"broken"});
  EXPECT_FALSE(registry_.Ready());
  registry_.Remove("broken");
  EXPECT_TRUE(registry_.Ready());
  EXPECT_EQ(registry_.Find("broken"), nullptr);
}

TEST_F(RegistryTest, AFirstModelThatIsUnloadedBeforeItServedIsNotWaitedFor) {
  const auto model = registry_.Add("broken");
  registry_.SetInitialModels({"broken"});
  EXPECT_FALSE(registry_.Ready());
  registry_.Retire(model);
  EXPECT_TRUE(registry_.Ready());
}

TEST_F(RegistryTest, AModelThatLostItsDevicesMakesTheServerUnreadyForGood) {
  Recorder recorder;
  registry_.AddObserver(&recorder);
  Publish("a", 1);
  Publish("b", 1);
  registry_.SetInitialModels({"a", "b"});
  const auto model = registry_.Find("a");
  const auto lost = model->Pin();
  EXPECT_EQ(registry_.RetireLost(model, *lost, "cuda:0 is lost"), Lost::kModel);
  EXPECT_EQ(registry_.RetireLost(model, *lost, "told twice"), Lost::kNothing);
  EXPECT_EQ(model->lost_because(), "cuda:0 is lost");
  EXPECT_EQ(model->Pin(), nullptr);
  EXPECT_EQ(model->progress().last_error, "cuda:0 is lost");
  EXPECT_FALSE(registry_.Ready());
  EXPECT_EQ(registry_.device_fault(), "model 'a': cuda:0 is lost");
  Publish("a", 2);
  EXPECT_EQ(model->Pin()->number, 2);
  EXPECT_FALSE(registry_.Ready()) << "only a new process has the device again";
  EXPECT_EQ(recorder.seen, (std::vector<std::string>{"+a", "a/1", "+b", "b/1", "ready", "a/none",
                                                     "unready", "a/2"}));
}

TEST_F(RegistryTest, AVersionThatCameMeanwhileIsNotTakenOutForTheOneBefore) {
  Publish("a", 1);
  registry_.SetInitialModels({"a"});
  const auto before = registry_.Find("a")->Pin();
  Publish("a", 2);
  EXPECT_EQ(registry_.RetireLost(registry_.Find("a"), *before, "cuda:0 is lost"), Lost::kNothing);
  EXPECT_EQ(registry_.Find("a")->Pin()->number, 2);
  EXPECT_TRUE(registry_.Ready());
  EXPECT_EQ(registry_.device_fault(), "");
}

TEST_F(RegistryTest, ShutdownIsForGood) {
  Recorder recorder;
  registry_.AddObserver(&recorder);
  registry_.SetInitialModels({});
  EXPECT_TRUE(registry_.Ready());
  registry_.BeginShutdown();
  EXPECT_FALSE(registry_.Ready());
  Publish("a", 1);
  EXPECT_FALSE(registry_.Ready());
  EXPECT_EQ(recorder.seen, (std::vector<std::string>{"ready", "unready", "+a", "a/1"}));
}

TEST_F(RegistryTest, ObserversSeeARemovedModelOutOfService) {
  Recorder recorder;
  registry_.AddObserver(&recorder);
  Publish("a", 1);
  const auto model = registry_.Find("a");
  registry_.Remove("a");
  EXPECT_EQ(model->Pin(), nullptr);
  EXPECT_EQ(recorder.seen, (std::vector<std::string>{"+a", "a/1", "-a"}));
}

TEST_F(RegistryTest, ACanaryOrANumberThatLostItsDevicesGoesAloneAndTheServerStaysReady) {
  registry_.SetInitialModels({});
  const auto model = registry_.Add("a");
  const auto version = [this](int64_t number) {
    return reaper_.Own(MakeFakeVersion("a", number, {}));
  };
  registry_.Serve(model, {.live = version(3),
                          .others = {{1, version(1)}, {2, version(2)}},
                          .canary = version(4),
                          .canary_share = 0.5,
                          .trial = std::make_shared<CanaryTrial>(3, 4)});
  EXPECT_EQ(registry_.RetireLost(model, *model->Pin(4), "cuda:0 is lost"), Lost::kBeside);
  EXPECT_EQ(registry_.RetireLost(model, *model->Pin(1), "cuda:0 is lost"), Lost::kBeside);
  const Serving serving = model->serving();
  EXPECT_EQ(serving.canary, nullptr);
  EXPECT_EQ(serving.trial, nullptr);
  EXPECT_EQ(serving.others.size(), 1u);
  EXPECT_EQ(serving.live->number, 3);
  EXPECT_TRUE(registry_.Ready());
  EXPECT_EQ(registry_.device_fault(), "");
  EXPECT_EQ(registry_.RetireLost(model, *model->Pin(3), "cuda:0 is lost"), Lost::kModel);
  EXPECT_EQ(model->Pin(2), nullptr) << "without its live version a model is out of service";
  EXPECT_FALSE(registry_.Ready());
}

TEST_F(RegistryTest, PinsFromManyThreadsWhileVersionsChange) {
  Publish("m", 1);
  const auto model = registry_.Find("m");
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  for (int i = 0; i < 4; ++i) {
    readers.emplace_back([&] {
      int64_t last = 0;
      while (!stop) {
        const auto pinned = model->Pin();
        EXPECT_GE(pinned->number, last);
        EXPECT_EQ(pinned->weights_id, "id" + std::to_string(pinned->number));
        last = pinned->number;
      }
    });
  }
  for (int64_t number = 2; number <= 500; ++number) Publish("m", number);
  stop = true;
  for (std::thread& reader : readers) reader.join();
  while (reaper_.reaped() < 499) std::this_thread::yield();
}

}  // namespace
}  // namespace sconce
