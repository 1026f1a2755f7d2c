// Interruption: SIGINT, SIGTERM and SIGHUP taken as a wish to stop, so that a command that writes a
// file can remove what is not finished. The first is noted, a second ends the process at once.
//
// One a process, made in main before any other thread; lives until the process ends. signal() may
// be called from any thread.
#ifndef SCONCE_SERVER_TOOLS_INTERRUPTION_H_
#define SCONCE_SERVER_TOOLS_INTERRUPTION_H_

#include <atomic>
#include <memory>

namespace sconce::tools {

class Interruption {
 public:
  Interruption();

  // The signal that came, 0 if none did.
  int signal() const { return noted_->load(); }

 private:
  // Shared with the thread that waits, which is never joined.
  const std::shared_ptr<std::atomic<int>> noted_;
};

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_INTERRUPTION_H_
