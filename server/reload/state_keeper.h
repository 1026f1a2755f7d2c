// StateKeeper: keeps the state file equal to what the reloader knows, on a thread of its own: a
// disk that hangs holds up nobody. Without a path it does nothing.
//
// A file that is broken or cannot be read is said to be so, and is left as it is: the server goes
// on without one. One that cannot be written is complained of once, until it can be written again.
//
// Thread-safe. Owned by the reloader.

#ifndef SCONCE_SERVER_RELOAD_STATE_KEEPER_H_
#define SCONCE_SERVER_RELOAD_STATE_KEEPER_H_

#include <cstdint>
#include <functional>
#include <string>

#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/base/thread.h"
#include "server/reload/state_file.h"

namespace sconce {

class StateKeeper {
 public:
  // `current` is called on the keeper's thread.
  StateKeeper(std::string path, std::function<SavedState()> current);
  ~StateKeeper() { Stop(); }
  StateKeeper(const StateKeeper&) = delete;
  StateKeeper& operator=(const StateKeeper&) = delete;

  // What was saved before the start. Begins to keep the file. REQUIRES: called at most once.
  SavedState Start();

  // What `current` gives may have changed.
  void Changed();
  // Waits until what has changed by now is saved or cannot be, for `patience` at most.
  void AwaitSaved(Duration patience);

  // Saves what has changed and ends the thread.
  void Stop();

 private:
  void Run();
  void Save();

  const std::string path_;
  const std::function<SavedState()> current_;
  // Of the keeper's thread, once it runs.
  SavedState saved_;
  bool complained_ = false;

  Mutex mutex_;
  CondVar changed_;
  int64_t changes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t handled_ ABSL_GUARDED_BY(mutex_) = 0;
  bool keeping_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  Thread thread_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_STATE_KEEPER_H_
