// Watcher: the thread that looks at the model repository. It looks at a fixed interval; inotify,
// where the file system has it, only makes a look come sooner. A change that inotify misses (a
// remote write on NFS, a link far from the repository) is therefore late, never lost.
//
// Thread-safe. Owned by the reloader, whose `look` it calls on its own thread only.

#ifndef SCONCE_SERVER_RELOAD_WATCHER_H_
#define SCONCE_SERVER_RELOAD_WATCHER_H_

#include <functional>
#include <set>
#include <string>

#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/base/thread.h"

namespace sconce {

class Watcher {
 public:
  struct Options {
    Duration poll_interval = std::chrono::seconds(1);
    bool use_inotify = true;
  };

  // What a look wants of the next one.
  struct NextLook {
    // Not later than that; never later than the poll interval.
    TimePoint at = TimePoint::max();
    // Folders in which a change is to cause a look at once.
    std::set<std::string> folders;
  };
  using Look = std::function<NextLook()>;

  // The first look is taken at once.
  Watcher(Options options, Look look);
  ~Watcher();
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;

  // Takes a look that begins after this call, soon.
  void LookNow();

  // Returns when no look is running and none will.
  void Stop();

 private:
  void Run();
  // Watches exactly `folders`.
  void Arm(const std::set<std::string>& folders);
  void StopWatching(const std::string& reason);
  void DrainEvents();
  // False once the watcher is stopped.
  bool WaitForNext(TimePoint at);

  const Options options_;
  const Look look_;
  int wake_fd_ = -1;  // an eventfd

  // Of the watcher's thread alone.
  int inotify_fd_ = -1;
  std::set<int> watches_;

  Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_WATCHER_H_
