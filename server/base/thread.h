// A named thread that is joined when it is destroyed. Background threads run at SCHED_IDLE: they
// take only processor time that nobody else wants, so that loading weights does not slow requests.

#ifndef SCONCE_SERVER_BASE_THREAD_H_
#define SCONCE_SERVER_BASE_THREAD_H_

#include <functional>
#include <string>
#include <thread>

namespace sconce {

enum class ThreadPriority { kNormal, kBackground };

class Thread {
 public:
  Thread() = default;
  // `name` is cut to the kernel's 15 characters. Where the kernel refuses SCHED_IDLE the thread
  // runs at the lowest nice value it may have.
  Thread(std::string name, ThreadPriority priority, std::function<void()> body);
  ~Thread() { Join(); }
  Thread(Thread&&) = default;
  // REQUIRES: this thread has been joined or never started.
  Thread& operator=(Thread&&) = default;

  void Join();

 private:
  std::thread thread_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_THREAD_H_
