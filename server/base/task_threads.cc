#include "server/base/task_threads.h"

#include <utility>

namespace sconce {

TaskThreads::TaskThreads(const std::string& name, int count, ThreadPriority priority) {
  for (int i = 0; i < count; ++i) threads_.emplace_back(name, priority, [this] { Loop(); });
}

void TaskThreads::Run(std::function<void()> task) {
  {
    MutexLock lock(&mutex_);
    if (stopped_) return;
    tasks_.push_back(std::move(task));
  }
  changed_.Notify();
}

void TaskThreads::Stop() {
  std::deque<std::function<void()>> forgotten;
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    forgotten.swap(tasks_);
  }
  changed_.NotifyAll();
  for (Thread& thread : threads_) thread.Join();
}

void TaskThreads::Loop() {
  for (;;) {
    std::function<void()> task;
    {
      MutexLock lock(&mutex_);
      while (tasks_.empty() && !stopped_) changed_.Wait(&mutex_);
      if (stopped_) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace sconce
