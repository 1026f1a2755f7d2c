#include "server/tools/interruption.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <thread>

namespace sconce::tools {

Interruption::Interruption() : noted_(std::make_shared<std::atomic<int>>(0)) {
  sigset_t set;
  sigemptyset(&set);
  for (const int each : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, each);
  // Before the first thread, which inherits the mask.
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::thread([set, noted = noted_] {
    int first = 0;
    int second = 0;
    sigwait(&set, &first);
    noted->store(first);
    sigwait(&set, &second);
    _exit(128 + second);
  }).detach();
}

}  // namespace sconce::tools
