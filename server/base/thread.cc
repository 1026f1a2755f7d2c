#include "server/base/thread.h"

#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

namespace sconce {

Thread::Thread(std::string name, ThreadPriority priority, std::function<void()> body)
    : thread_([name = std::move(name), priority, body = std::move(body)] {
        pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
        if (priority == ThreadPriority::kBackground) {
          sched_param param{};
          if (pthread_setschedparam(pthread_self(), SCHED_IDLE, &param) != 0) {
            // On Linux a nice value belongs to the thread.
            setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), 19);
          }
        }
        body();
      }) {}

void Thread::Join() {
  if (thread_.joinable()) thread_.join();
}

}  // namespace sconce
