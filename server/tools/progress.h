// Progress: a bar on the terminal for work that reads many bytes, and the place where such work
// notices that it is to stop.
//
// Used by one thread; the console and the interruption outlive it.
#ifndef SCONCE_SERVER_TOOLS_PROGRESS_H_
#define SCONCE_SERVER_TOOLS_PROGRESS_H_

#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "server/tools/console.h"
#include "server/tools/interruption.h"

namespace sconce::tools {

class Progress {
 public:
  // `what`: a word for what is done, "reading". `interruption` may be null.
  Progress(Console& console, std::string what, int64_t total_bytes,
           const Interruption* interruption = nullptr);
  ~Progress() { console_.ClearProgress(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Cancelled where a signal came.
  absl::Status Advance(int64_t bytes);

 private:
  Console& console_;
  const std::string what_;
  const int64_t total_;
  const Interruption* const interruption_;
  int64_t done_ = 0;
  std::chrono::steady_clock::time_point started_;
  std::chrono::steady_clock::time_point next_shown_;
};

}  // namespace sconce::tools

#endif  // SCONCE_SERVER_TOOLS_PROGRESS_H_
