#include "server/reload/watcher.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/temp_dir.h"

namespace sconce {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Counts looks; tests wait for the next one.
class LookCounter {
 public:
  explicit LookCounter(std::set<std::string> folders = {}) : folders_(std::move(folders)) {}

  Watcher::Look look() {
    return [this] {
      MutexLock lock(&mutex_);
      ++looks_;
      changed_.NotifyAll();
      return Watcher::NextLook{.at = Clock::Real()->Now() + delay_, .folders = folders_};
    };
  }
  void SetDelay(Duration delay) {
    MutexLock lock(&mutex_);
    delay_ = delay;
  }
  int looks() {
    MutexLock lock(&mutex_);
    return looks_;
  }
  // Waits until there have been `count` looks; false after a long time.
  bool Await(int count) {
    const TimePoint deadline = Clock::Real()->Now() + seconds(20);
    MutexLock lock(&mutex_);
    while (looks_ < count) {
      if (!changed_.WaitUntil(&mutex_, deadline)) return looks_ >= count;
    }
    return true;
  }

 private:
  const std::set<std::string> folders_;
  Mutex mutex_;
  CondVar changed_;
  Duration delay_ = hours(1);
  int looks_ = 0;
};

constexpr Watcher::Options kInotifyOnly{.poll_interval = hours(1), .use_inotify = true};
constexpr Watcher::Options kNeverByItself{.poll_interval = hours(1), .use_inotify = false};

TEST(WatcherTest, LooksAtOnce) {
  LookCounter counter;
  Watcher watcher(kNeverByItself, counter.look());
  EXPECT_TRUE(counter.Await(1));
}

TEST(WatcherTest, PollsWithoutInotify) {
  LookCounter counter;
  Watcher watcher({.poll_interval = milliseconds(1), .use_inotify = false}, counter.look());
  EXPECT_TRUE(counter.Await(5));
}

TEST(WatcherTest, LooksAgainWhenTheLastLookAskedForIt) {
  LookCounter counter;
  counter.SetDelay(milliseconds(1));
  Watcher watcher(kNeverByItself, counter.look());
  EXPECT_TRUE(counter.Await(5));
}

TEST(WatcherTest, EveryRequestIsFollowedByALook) {
  LookCounter counter;
  Watcher watcher(kNeverByItself, counter.look());
  for (int i = 0; i < 50; ++i) {
    const int before = counter.looks();
    watcher.LookNow();
    ASSERT_TRUE(counter.Await(before + 1));
  }
}

TEST(WatcherTest, ChangeInAFolderCausesALook) {
  TempDir dir;
  dir.Write("a", "1");
  const std::vector<std::pair<std::string, std::function<void()>>> changes = {
      {"new file", [&] { dir.Write("b", "1"); }},
      {"file written in place", [&] { dir.Write("a", "2"); }},
      {"rename", [&] { dir.Rename("b", "a"); }},
      {"removal", [&] { dir.Remove("a"); }},
      {"new link", [&] { dir.Link("nowhere", "c"); }},
  };
  for (const auto& [name, change] : changes) {
    LookCounter counter({dir.path(), dir.Path("not there")});
    Watcher watcher(kInotifyOnly, counter.look());
    // The folder is watched once a look that was asked for after the first one has been taken.
    ASSERT_TRUE(counter.Await(1));
    watcher.LookNow();
    ASSERT_TRUE(counter.Await(2));
    change();
    EXPECT_TRUE(counter.Await(3)) << name;
  }
}

TEST(WatcherTest, FolderThatALinkCameToLeadToIsWatched) {
  TempDir dir;
  dir.MakeFolder("v1");
  dir.MakeFolder("v2");
  dir.Link("v1", "current");
  LookCounter counter({dir.Path("current")});
  Watcher watcher(kInotifyOnly, counter.look());
  ASSERT_TRUE(counter.Await(1));
  dir.Link("v2", "next");
  dir.Rename("next", "current");
  // Two looks: after the first of them the new folder is watched.
  for (int i = 0; i < 2; ++i) {
    const int before = counter.looks();
    watcher.LookNow();
    ASSERT_TRUE(counter.Await(before + 1));
  }
  const int before = counter.looks();
  dir.Write("v2/model.pth", "w");
  EXPECT_TRUE(counter.Await(before + 1));
}

TEST(WatcherTest, NoLookAfterStop) {
  LookCounter counter;
  counter.SetDelay(milliseconds(0));
  Watcher watcher(kNeverByItself, counter.look());
  ASSERT_TRUE(counter.Await(3));
  watcher.Stop();
  const int looks = counter.looks();
  watcher.LookNow();
  watcher.Stop();
  EXPECT_EQ(counter.looks(), looks);
}

}  // namespace
}  // namespace sconce
