#include "server/tools/run.h"

#include <csignal>
#include <exception>
#include <new>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/tools/arithmetic.h"
#include "server/tools/console.h"
#include "server/tools/interruption.h"

namespace sconce::tools {
namespace {

constexpr int kTrouble = 2;

struct Runner {
  Console& console;
  int signal = 0;  // that ended the command

  absl::StatusOr<int> operator()(const InspectOptions& options) {
    return Inspect(options, console);
  }
  absl::StatusOr<int> operator()(const CheckOptions& options) { return Check(options, console); }
  absl::StatusOr<int> operator()(const DiffOptions& options) { return Diff(options, console); }
  absl::StatusOr<int> operator()(const DevicesOptions& options) {
    return Devices(options, console);
  }
  absl::StatusOr<int> operator()(const ArchitecturesOptions& options) {
    return Architectures(options, console);
  }
  absl::StatusOr<int> operator()(const SummaryOptions& options) {
    return Summarise(options, console);
  }
  absl::StatusOr<int> operator()(const CtlOptions& options) { return Ctl(options, console); }
  absl::StatusOr<int> operator()(const ConvertOptions& options) {
    return Interruptible(
        [&](const Interruption& interruption) { return Convert(options, interruption, console); });
  }
  absl::StatusOr<int> operator()(const MergeOptions& options) {
    return Interruptible(
        [&](const Interruption& interruption) { return Merge(options, interruption, console); });
  }

 private:
  // The commands that write do not die of a signal with a file half written. The others may.
  template <typename Command>
  absl::StatusOr<int> Interruptible(Command command) {
    const Interruption interruption;
    absl::StatusOr<int> status = command(interruption);
    if (!status.ok()) signal = interruption.signal();
    return status;
  }
};

std::string NameOf(const ToolOptions& options) {
  constexpr const char* kNames[] = {"inspect", "check", "diff",    "convert",      "merge",
                                    "devices", "ctl",   "summary", "architectures"};
  return absl::StrCat("sconce ", kNames[options.index()]);
}

}  // namespace

int RunTool(const ToolOptions& options) {
  // What they would end is seen from the write that fails.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  UseOneThread();
  Console console(NameOf(options));
  Runner runner{console};
  absl::StatusOr<int> status = 0;
  try {
    status = std::visit(runner, options);
  } catch (const std::bad_alloc&) {
    status = absl::ResourceExhaustedError("out of memory");
  } catch (const std::exception& error) {  // LibTorch's, of arithmetic
    status = absl::InternalError(error.what());
  }
  const absl::Status flushed = console.Flush();
  if (!status.ok()) {
    console.Remark(std::string(status.status().message()));
    return runner.signal != 0 ? 128 + runner.signal : kTrouble;
  }
  if (!flushed.ok()) {
    console.Remark(std::string(flushed.message()));
    return kTrouble;
  }
  return *status;
}

}  // namespace sconce::tools
