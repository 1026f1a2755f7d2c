// Reaper: the background thread on which retired model versions are destroyed. Freeing gigabytes
// takes milliseconds that a request thread must not spend.
//
// Thread-safe. Owned by App; outlives every version it handed out.

#ifndef SCONCE_SERVER_REGISTRY_REAPER_H_
#define SCONCE_SERVER_REGISTRY_REAPER_H_

#include <cstdint>
#include <memory>
#include <vector>

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

 private:
  // Shared with the deleters, which may run after the last call into the reaper.
  struct Queue {
    mutable Mutex mutex;
    CondVar changed;
    std::vector<const ModelVersion*> waiting ABSL_GUARDED_BY(mutex);
    int64_t reaped ABSL_GUARDED_BY(mutex) = 0;
    bool stopping ABSL_GUARDED_BY(mutex) = false;
  };
  static void Loop(Queue* queue);

  const std::shared_ptr<Queue> queue_;
  Thread thread_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_REAPER_H_
