// OpenCalls: how many calls are open, for a shutdown that waits until there are none. Thread-safe;
// shared by everything that answers calls.

#ifndef SCONCE_SERVER_RPC_OPEN_CALLS_H_
#define SCONCE_SERVER_RPC_OPEN_CALLS_H_

#include <cstdint>

#include "server/base/clock.h"
#include "server/base/mutex.h"

namespace sconce {

class OpenCalls {
 public:
  void Add() {
    MutexLock lock(&mutex_);
    ++open_;
  }

  void Remove() {
    MutexLock lock(&mutex_);
    if (--open_ == 0) none_.NotifyAll();
  }

  void AwaitNone() {
    MutexLock lock(&mutex_);
    while (open_ > 0) none_.Wait(&mutex_);
  }

  // False when `deadline`, of the machine's clock, passed before.
  bool AwaitNoneUntil(TimePoint deadline) {
    MutexLock lock(&mutex_);
    while (open_ > 0) {
      if (!none_.WaitUntil(&mutex_, deadline)) return open_ == 0;
    }
    return true;
  }

 private:
  Mutex mutex_;
  CondVar none_;
  int64_t open_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Counts the call of one scope.
class OpenCall {
 public:
  explicit OpenCall(OpenCalls* calls) : calls_(calls) { calls_->Add(); }
  ~OpenCall() { calls_->Remove(); }
  OpenCall(const OpenCall&) = delete;
  OpenCall& operator=(const OpenCall&) = delete;

 private:
  OpenCalls* const calls_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_RPC_OPEN_CALLS_H_
