// sconce_load: see options.cc for what it does.

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>
#include <sched.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/load_generator/load.h"
#include "bench/load_generator/options.h"
#include "bench/load_generator/process_cpu.h"
#include "bench/load_generator/report.h"
#include "bench/load_generator/request_record.h"
#include "bench/load_generator/request_template.h"

namespace sconce::bench {
namespace {

// Set by a signal.
std::atomic<bool> stopped{false};
static_assert(std::atomic<bool>::is_always_lock_free);

absl::Status PinTo(int cpu) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (cpu < 0 || cpu >= CPU_SETSIZE) {
    return absl::InvalidArgumentError(absl::StrCat("--pin ", cpu, ": there is no such processor"));
  }
  CPU_SET(cpu, &cpus);
  if (sched_setaffinity(0, sizeof cpus, &cpus) == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--pin ", cpu, ": ", strerror(errno)));
}

std::vector<std::shared_ptr<grpc::Channel>> Connect(const Options& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  // Otherwise channels to one address share one connection.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int i = 0; i < options.connections; ++i) {
    channels.push_back(
        grpc::CreateCustomChannel(options.address, grpc::InsecureChannelCredentials(), arguments));
  }
  return channels;
}

struct Run {
  std::string name;
  LoadResult result;
};

absl::Status Main(const Options& options) {
  if (!options.rate.empty()) {
    for (const int number : {SIGINT, SIGTERM}) {
      std::signal(number, [](int) { stopped = true; });
    }
  }
  if (options.pin.has_value()) {
    if (absl::Status pinned = PinTo(*options.pin); !pinned.ok()) return pinned;
  }
  if (options.server_pid.has_value()) {
    if (const auto time = ProcessCpuTime(*options.server_pid); !time.ok()) return time.status();
  }
  Target target;
  target.channels = Connect(options);
  const auto request = MakeRequestTemplate(options, target.channels.front());
  if (!request.ok()) return request.status();
  target.request = request->bytes;
  target.warmup = std::chrono::duration_cast<Duration>(options.warmup);
  target.duration = std::chrono::duration_cast<Duration>(options.duration);
  target.timeout = std::chrono::duration_cast<Duration>(options.timeout);
  target.server_pid = options.server_pid;
  std::unique_ptr<RecordFile> record;
  if (!options.record.empty()) {
    auto created = RecordFile::Create(options.record);
    if (!created.ok()) return created.status();
    record = *std::move(created);
    target.record = record.get();
  }

  if (!options.json) {
    std::printf("%s at %s, %d connection(s): %s\n", options.model.c_str(), options.address.c_str(),
                options.connections, request->description.c_str());
    PrintTableHead();
  }
  std::vector<Run> runs;
  const auto finish = [&](std::string name, LoadResult result) {
    if (options.json) {
      PrintJson(name, options.rows, result);
    } else {
      PrintTableLine(name, options.rows, result);
    }
    runs.push_back({std::move(name), std::move(result)});
  };
  for (const int concurrency : options.concurrency) {
    finish(absl::StrCat("closed ", concurrency), RunClosedLoop(target, concurrency));
  }
  for (const double rate : options.rate) {
    if (stopped) break;
    finish(absl::StrCat("open ", rate, "/s"), RunOpenLoop(target, rate, options.poisson, stopped));
  }
  bool any_unanswered = false;
  for (const Run& run : runs) {
    if (!options.json) PrintRemarks(run.name, run.result);
    any_unanswered |= run.result.latency.count() == 0;
  }
  if (record != nullptr) {
    if (absl::Status written = record->Close(); !written.ok()) return written;
  }
  return any_unanswered ? absl::UnavailableError("a run without one good answer")
                        : absl::OkStatus();
}

}  // namespace
}  // namespace sconce::bench

int main(int argc, char** argv) {
  int exit_status = 0;
  const auto options = sconce::bench::ParseOptions(argc, argv, &exit_status);
  if (!options.has_value()) return exit_status;
  const absl::Status status = sconce::bench::Main(*options);
  if (status.ok()) return 0;
  std::cerr << "sconce_load: " << status.message() << "\n";
  return 1;
}
