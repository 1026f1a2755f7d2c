// Reaper: the background thread on which retired model versions are destroyed. Freeing gigabytes
// takes milliseconds that a request thread must not spend.
//
// Thread-safe. Owned by App; outlives every version it handed out.

#ifndef SCONCE_SERVER_REGISTRY_REAPER_H_
#define SCONCE_SERVER_REGISTRY_REAPER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <thread>

#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/base/thread.h"
#include "server/registry/model_version.h"

namespace sconce {

class Reaper {
 public:
  Reaper();
  // Destroys what is left. REQUIRES: no version of this reaper is pinned any more.
  ~Reaper();

  // A version whose last pin, wherever it is dropped, only queues it here.
  std::shared_ptr<const ModelVersion> Own(std::unique_ptr<ModelVersion> version);

  // Versions destroyed so far.
  int64_t reaped() const;

  // Returns once every version whose last pin was dropped before the call is destroyed, so that
  // what it held can be taken again; false where that takes longer than `patience`. To be called
  // without a lock that the end of a version may want; on the reaper's own thread, that is from
  // within such an end, it waits for nothing and says false.
  bool AwaitDropped(Duration patience);

 private:
  // Shared with the deleters, which may run after the last call into the reaper.
  struct Queue {
    mutable Mutex mutex;
    CondVar dropped_one;
    CondVar reaped_one;
    std::deque<const ModelVersion*> waiting ABSL_GUARDED_BY(mutex);
    // Since the start.
    int64_t dropped ABSL_GUARDED_BY(mutex) = 0;
    int64_t reaped ABSL_GUARDED_BY(mutex) = 0;
    std::thread::id reaper ABSL_GUARDED_BY(mutex);
    bool stopping ABSL_GUARDED_BY(mutex) = false;
  };
  static void Loop(Queue* queue);

  const std::shared_ptr<Queue> queue_;
  Thread thread_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_REAPER_H_
