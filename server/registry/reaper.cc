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
  queue_->dropped_one.Notify();
  thread_.Join();
}

std::shared_ptr<const ModelVersion> Reaper::Own(std::unique_ptr<ModelVersion> version) {
  return std::shared_ptr<const ModelVersion>(version.release(),
                                             [queue = queue_](const ModelVersion* retired) {
                                               {
                                                 MutexLock lock(&queue->mutex);
                                                 if (!queue->stopping) {
                                                   queue->waiting.push_back(retired);
                                                   ++queue->dropped;
                                                   retired = nullptr;
                                                 }
                                               }
                                               queue->dropped_one.Notify();
                                               delete retired;  // only where the reaper is gone
                                             });
}

int64_t Reaper::reaped() const {
  MutexLock lock(&queue_->mutex);
  return queue_->reaped;
}

bool Reaper::AwaitDropped(Duration patience) {
  const TimePoint deadline = std::chrono::steady_clock::now() + patience;
  MutexLock lock(&queue_->mutex);
  const int64_t dropped = queue_->dropped;
  while (queue_->reaped < dropped) {
    if (queue_->reaper == std::this_thread::get_id()) return false;
    if (!queue_->reaped_one.WaitUntil(&queue_->mutex, deadline)) return queue_->reaped >= dropped;
  }
  return true;
}

void Reaper::Loop(Queue* queue) {
  {
    MutexLock lock(&queue->mutex);
    queue->reaper = std::this_thread::get_id();
  }
  for (;;) {
    const ModelVersion* doomed = nullptr;
    {
      MutexLock lock(&queue->mutex);
      while (queue->waiting.empty() && !queue->stopping) queue->dropped_one.Wait(&queue->mutex);
      if (queue->waiting.empty()) return;
      doomed = queue->waiting.front();
      queue->waiting.pop_front();
    }
    delete doomed;
    {
      MutexLock lock(&queue->mutex);
      ++queue->reaped;
    }
    queue->reaped_one.NotifyAll();
  }
}

}  // namespace sconce
