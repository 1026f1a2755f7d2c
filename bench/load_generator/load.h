// One run: requests sent to the server in a closed or an open loop, and what came back.
//
// Functions that return when the run is over and every request has been answered. One run at a
// time.

#ifndef SCONCE_BENCH_LOAD_GENERATOR_LOAD_H_
#define SCONCE_BENCH_LOAD_GENERATOR_LOAD_H_

#include <grpcpp/channel.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bench/load_generator/latency_histogram.h"
#include "bench/load_generator/request_record.h"
#include "server/base/clock.h"

namespace sconce::bench {

// What all runs have in common.
struct Target {
  std::vector<std::shared_ptr<grpc::Channel>> channels;  // used in turn
  grpc::ByteBuffer request;
  Duration warmup{};
  Duration duration{};
  Duration timeout{};  // of one request; 0: none
  std::optional<pid_t> server_pid;
  RecordFile* record = nullptr;  // of the requests that are measured; null: none is kept
};

struct Failures {
  int64_t count = 0;
  std::string first_message;
};

struct LoadResult {
  Duration measured{};
  // Answers of the server, good ones, that came within the time measured.
  int64_t answered = 0;
  // Of the requests that belong to the time measured: in a closed loop those that ended in it, in
  // an open loop those that were to start in it.
  LatencyHistogram latency;  // of those that succeeded
  std::map<grpc::StatusCode, Failures> failures;
  // (model version, weights id) -> good answers.
  std::map<std::pair<std::string, std::string>, int64_t> served_by;
  // Open loop: how much later than intended the generator itself started requests.
  LatencyHistogram lateness;
  Duration server_cpu{};  // during the time measured; not above zero: not known
};

// Keeps `concurrency` requests in flight. The time measured begins and ends with an answer.
LoadResult RunClosedLoop(const Target& target, int concurrency);

// Starts `rate` requests per second, at random intervals (`poisson`, with the same seed each time)
// or at equal ones, until the time is over or `stop` becomes true.
LoadResult RunOpenLoop(const Target& target, double rate, bool poisson,
                       const std::atomic<bool>& stop);

}  // namespace sconce::bench

#endif  // SCONCE_BENCH_LOAD_GENERATOR_LOAD_H_
