#include "server/app/run.h"

#include <pthread.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <variant>

#include "absl/strings/str_cat.h"
#include "server/app/logging.h"
#include "server/app/options.h"
#include "server/app/server.h"
#include "server/tools/run.h"

namespace sconce {
namespace {

// What a process that ends by itself, because of its devices, may still take to answer.
constexpr std::chrono::milliseconds kDeviceFaultGrace(5000);
// Sent by the process to itself.
constexpr int kDeviceFaultSignal = SIGUSR1;

// Signals are taken by a thread that waits for them, never by a handler.
sigset_t TerminationSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

int WaitFor(const sigset_t& set) {
  int signal = 0;
  sigwait(&set, &signal);
  return signal;
}

int Serve(const ServeOptions& options) {
  SetUpLogging(options.log_format, options.log_level);

  // Before the first thread, which inherits the mask.
  sigset_t set = TerminationSignals();
  sigaddset(&set, kDeviceFaultSignal);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  // Machine code of AOTInductor then compares shapes with those it was compiled for, which it alone
  // knows, before it reads.
  if (options.allow_native_code) ::setenv("AOTI_RUNTIME_CHECK_INPUTS", "1", /*overwrite=*/1);

  auto server = Server::Start(options, [exit = options.exit_on_device_fault] {
    if (exit) kill(getpid(), kDeviceFaultSignal);
  });
  if (!server.ok()) {
    spdlog::error("{}", std::string(server.status().message()));
    return 1;
  }

  const int first = WaitFor(set);
  const bool device_fault = first == kDeviceFaultSignal;
  const auto grace =
      device_fault ? std::min(options.shutdown_grace, kDeviceFaultGrace) : options.shutdown_grace;
  const int status = device_fault ? kDeviceFaultStatus : 0;
  spdlog::info("{}: finishing what is in flight, for {} s at most; {} ends at once",
               device_fault ? "a device is lost" : absl::StrCat("signal ", first),
               static_cast<double>(grace.count()) / 1000, device_fault ? "a signal" : "again");
  // Never joined: it is still waiting when everything has ended well.
  std::thread([] {
    const int second = WaitFor(TerminationSignals());
    spdlog::warn("signal {}: ending at once", second);
    _exit(128 + second);
  }).detach();
  (*server)->Stop(grace, status);
  spdlog::info("stopped");
  // What is left of LibTorch's and gRPC's globals is for the system to take back: their destructors
  // race with threads of theirs that nobody can join.
  std::fflush(nullptr);
  _exit(status);
}

}  // namespace

int Run(int argc, char** argv) {
  int exit_status = 0;
  const auto command = ParseCommandLine(argc, argv, &exit_status);
  if (!command.has_value()) return exit_status;
  if (const auto* tool = std::get_if<tools::ToolOptions>(&*command)) {
    _exit(tools::RunTool(*tool));
  }
  return Serve(std::get<ServeOptions>(*command));
}

}  // namespace sconce
