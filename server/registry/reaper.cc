#include "server/registry/reaper.h"

#include <utility>

namespace sconce {

Reaper::Reaper()
    : queue_(std::make_shared<Queue>()),
      thread_("sconce-reaper", ThreadPriority::kBackground,
              [queue = queue_] { Loop(queue.get()); }) {}

Reaper::~Reaper() {
  {
    MutexLock lock(&queue_->mutex);
    queue_->stopping = true;
  }
  queue_->changed.Notify();
  thread_.Join();
}

std::shared_ptr<const ModelVersion> Reaper::Own(std::unique_ptr<ModelVersion> version) {
  return std::shared_ptr<const ModelVersion>(version.release(),
                                             [queue = queue_](const ModelVersion* retired) {
                                               {
                                                 MutexLock lock(&queue->mutex);
                                                 if (!queue->stopping) {
                                                   queue->waiting.push_back(retired);
                                                   retired = nullptr;
                                                 }
                                               }
                                               queue->changed.Notify();
                                               delete retired;  // only where the reaper is gone
                                             });
}

int64_t Reaper::reaped() const {
  MutexLock lock(&queue_->mutex);
  return queue_->reaped;
}

void Reaper::Loop(Queue* queue) {
  for (;;) {
    std::vector<const ModelVersion*> doomed;
    {
      MutexLock lock(&queue->mutex);
      while (queue->waiting.empty() && !queue->stopping) queue->changed.Wait(&queue->mutex);
      if (queue->waiting.empty()) return;
      doomed.swap(queue->waiting);
    }
    for (const ModelVersion* version : doomed) delete version;
    MutexLock lock(&queue->mutex);
    queue->reaped += static_cast<int64_t>(doomed.size());
  }
}

}  // namespace sconce
