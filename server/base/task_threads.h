// TaskThreads: a few threads that run tasks in the order in which they came.
//
// Thread-safe. Loads run on background threads; what touches the locks that requests take, and what
// requests wait for, on threads of normal priority: a background thread that is put aside while it
// holds such a lock would keep requests waiting, and threads that observers start would inherit its
// priority.

#ifndef SCONCE_SERVER_BASE_TASK_THREADS_H_
#define SCONCE_SERVER_BASE_TASK_THREADS_H_

#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "server/base/mutex.h"
#include "server/base/thread.h"

namespace sconce {

class TaskThreads {
 public:
  TaskThreads(const std::string& name, int count, ThreadPriority priority);
  ~TaskThreads() { Stop(); }

  void Run(std::function<void()> task);

  // Forgets the tasks that have not begun and waits for those that have.
  void Stop();

 private:
  void Loop();

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Thread> threads_;  // constant after construction
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_TASK_THREADS_H_
