#include "server/reload/state_keeper.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/printable.h"
#include "server/reload/reloader_text.h"

namespace sconce {
StateKeeper::StateKeeper(std::string path, std::function<SavedState()> current)
    : path_(std::move(path)), current_(std::move(current)) {}

SavedState StateKeeper::Start() {
  if (path_.empty()) return {};
  absl::StatusOr<SavedState> saved = ReadStateFile(path_);
  if (!saved.ok()) {
    spdlog::error(
        "state file: {}; the server goes on without it, and leaves it as it is: what it says is "
        "not known, and nothing is saved",
        Text(saved.status()));
    return {};
  }
  saved_ = *saved;
  {
    MutexLock lock(&mutex_);
    if (stopped_) return *saved;
    keeping_ = true;
  }
  thread_ = Thread("sconce-state", ThreadPriority::kNormal, [this] { Run(); });
  return *saved;
}

void StateKeeper::Changed() {
  {
    MutexLock lock(&mutex_);
    ++changes_;
  }
  changed_.NotifyAll();
}

void StateKeeper::AwaitSaved(Duration patience) {
  const TimePoint deadline = Clock::Real()->Now() + patience;
  MutexLock lock(&mutex_);
  const int64_t wanted = changes_;
  while (keeping_ && !stopped_ && handled_ < wanted) {
    if (!changed_.WaitUntil(&mutex_, deadline)) return;
  }
}

void StateKeeper::Stop() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
  }
  changed_.NotifyAll();
  thread_.Join();
}

void StateKeeper::Run() {
  bool last = false;
  while (!last) {
    int64_t changes;
    {
      MutexLock lock(&mutex_);
      while (changes_ == handled_ && !stopped_) changed_.Wait(&mutex_);
      last = stopped_;
      changes = changes_;
    }
    Save();
    {
      MutexLock lock(&mutex_);
      handled_ = changes;
    }
    changed_.NotifyAll();
  }
}

void StateKeeper::Save() {
  SavedState state = current_();
  if (state == saved_) return;
  const absl::Status status = WriteStateFile(path_, state);
  if (status.ok()) {
    saved_ = std::move(state);
    if (complained_) spdlog::info("state file {}: can be written again", Printable(path_));
    complained_ = false;
  } else if (!complained_) {
    complained_ = true;
    spdlog::warn("state file: {}; the server goes on, and tries again with the next change",
                 Text(status));
  }
}

}  // namespace sconce
