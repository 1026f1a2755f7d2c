// The command `sconce`.

#include <pthread.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <string>
#include <thread>
#include <variant>

#include "server/app/logging.h"
#include "server/app/options.h"
#include "server/app/server.h"
#include "server/tools/run.h"

namespace {

// Signals are taken by a thread that waits for them, never by a handler.
sigset_t TerminationSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

int WaitForTermination() {
  const sigset_t set = TerminationSignals();
  int signal = 0;
  sigwait(&set, &signal);
  return signal;
}

int Serve(const sconce::ServeOptions& options) {
  sconce::SetUpLogging(options.log_format, options.log_level);

  // Before the first thread, which inherits the mask.
  const sigset_t set = TerminationSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  auto server = sconce::Server::Start(options);
  if (!server.ok()) {
    spdlog::error("{}", std::string(server.status().message()));
    return 1;
  }

  const int first = WaitForTermination();
  spdlog::info("signal {}: finishing what is in flight, for {} s at most; again ends at once",
               first, static_cast<double>(options.shutdown_grace.count()) / 1000);
  // Never joined: it is still waiting when everything has ended well.
  std::thread([] {
    const int second = WaitForTermination();
    spdlog::warn("signal {}: ending at once", second);
    _exit(128 + second);
  }).detach();
  (*server)->Stop(options.shutdown_grace);
  spdlog::info("stopped");
  // What is left of LibTorch's and gRPC's globals is for the system to take back: their destructors
  // race with threads of theirs that nobody can join.
  std::fflush(nullptr);
  _exit(0);
}

}  // namespace

int main(int argc, char** argv) {
  int exit_status = 0;
  const auto command = sconce::ParseCommandLine(argc, argv, &exit_status);
  if (!command.has_value()) return exit_status;
  if (const auto* tool = std::get_if<sconce::tools::ToolOptions>(&*command)) {
    _exit(sconce::tools::RunTool(*tool));
  }
  return Serve(std::get<sconce::ServeOptions>(*command));
}
