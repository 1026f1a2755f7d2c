#include "bench/load_generator/load.h"

#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <thread>

#include "bench/load_generator/process_cpu.h"
#include "proto/open_inference.pb.h"

namespace sconce::bench {
namespace {

constexpr char kMethod[] = "/inference.GRPCInferenceService/ModelInfer";

TimePoint Now() { return Clock::Real()->Now(); }

int64_t Nanoseconds(TimePoint time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

// Until `until`, or until `stop` is seen, which is looked at ten times a second.
void SleepUntil(TimePoint until, const std::atomic<bool>& stop) {
  constexpr std::chrono::milliseconds kLook{100};
  while (!stop) {
    const TimePoint now = Now();
    if (until <= now) return;
    std::this_thread::sleep_until(std::min(until, now + kLook));
  }
}

// Zero where there is no such process, or no longer.
Duration ServerCpu(const Target& target) {
  if (!target.server_pid.has_value()) return Duration::zero();
  const auto time = ProcessCpuTime(*target.server_pid);
  return time.ok() ? Duration(*time) : Duration::zero();
}

struct Call {
  grpc::ClientContext context;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;
  grpc::ByteBuffer answer;
  grpc::Status status;
  TimePoint intended;
  TimePoint started;
};

// Starts calls; used by one thread.
class Caller {
 public:
  Caller(const Target& target, grpc::CompletionQueue* queue) : target_(target), queue_(queue) {
    for (const auto& channel : target.channels) {
      stubs_.push_back(std::make_unique<grpc::GenericStub>(channel));
    }
  }

  void Start(TimePoint intended) {
    auto* call = new Call;  // owned by the queue until it hands the tag back
    call->intended = intended;
    call->started = Now();
    if (target_.timeout > Duration::zero()) {
      call->context.set_deadline(
          std::chrono::system_clock::now() +
          std::chrono::duration_cast<std::chrono::system_clock::duration>(target_.timeout));
    }
    call->reader = stubs_[next_++ % stubs_.size()]->PrepareUnaryCall(&call->context, kMethod,
                                                                     target_.request, queue_);
    call->reader->StartCall();
    call->reader->Finish(&call->answer, &call->status, call);
  }

 private:
  const Target& target_;
  grpc::CompletionQueue* const queue_;
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs_;
  size_t next_ = 0;
};

// Books what came back; used by one thread.
class Recorder {
 public:
  Recorder(LoadResult* result, RecordFile* file) : result_(result), file_(file) {}

  // Takes what the call says into the result, and its latency.
  void Record(Call* call, TimePoint now) {
    grpc::Status status = call->status;
    if (status.ok()) {
      grpc::ProtoBufferReader reader(&call->answer);
      if (!message_.ParseFromZeroCopyStream(&reader)) {
        status = {grpc::StatusCode::INTERNAL, "the answer is no ModelInferResponse"};
      }
    }
    if (file_ != nullptr) {
      RequestRecord record = status.ok() ? RecordOf(message_) : RequestRecord{};
      record.intended_ns = Nanoseconds(call->intended);
      record.started_ns = Nanoseconds(call->started);
      record.done_ns = Nanoseconds(now);
      record.status = static_cast<uint8_t>(status.error_code());
      file_->Write(record);
    }
    if (!status.ok()) {
      Failures& failures = result_->failures[status.error_code()];
      if (failures.count++ == 0) failures.first_message = status.error_message();
      return;
    }
    result_->latency.Record(now - call->intended);
    const auto weights_id = message_.parameters().find("weights_id");
    ++result_->served_by[{message_.model_version(), weights_id == message_.parameters().end()
                                                        ? ""
                                                        : weights_id->second.string_param()}];
  }

 private:
  LoadResult* const result_;
  RecordFile* const file_;
  inference::ModelInferResponse message_;  // kept for its memory
};

// The next call the queue hands back; null once it is shut down and empty.
std::unique_ptr<Call> NextCall(grpc::CompletionQueue* queue) {
  void* tag = nullptr;
  bool ok = false;
  if (!queue->Next(&tag, &ok)) return nullptr;
  return std::unique_ptr<Call>(static_cast<Call*>(tag));
}

}  // namespace

LoadResult RunClosedLoop(const Target& target, int concurrency) {
  LoadResult result;
  Recorder recorder(&result, target.record);
  grpc::CompletionQueue queue;
  Caller caller(target, &queue);

  const TimePoint start = Now();
  std::optional<TimePoint> begin;
  bool ended = false;
  for (int i = 0; i < concurrency; ++i) caller.Start(Now());
  while (const std::unique_ptr<Call> call = NextCall(&queue)) {
    const TimePoint now = Now();
    if (begin.has_value() && !ended) {
      recorder.Record(call.get(), now);
      if (now >= *begin + target.duration) {
        result.measured = now - *begin;
        result.server_cpu += ServerCpu(target);
        ended = true;
        queue.Shutdown();
      }
    } else if (!begin.has_value() && now >= start + target.warmup) {
      begin = now;
      result.server_cpu = -ServerCpu(target);
    }
    if (!ended) caller.Start(Now());
  }
  result.answered = result.latency.count();
  return result;
}

LoadResult RunOpenLoop(const Target& target, double rate, bool poisson,
                       const std::atomic<bool>& stop) {
  LoadResult result;
  Recorder recorder(&result, target.record);
  grpc::CompletionQueue queue;

  const TimePoint start = Now();
  const TimePoint begin = start + target.warmup;
  // Where the run was stopped early: then. Set by the sender before it shuts down the queue.
  std::atomic<TimePoint> end = begin + target.duration;
  LatencyHistogram lateness;
  Duration server_cpu{};
  std::thread sender([&] {
    Caller caller(target, &queue);
    std::mt19937_64 random;
    std::exponential_distribution<double> gap(rate);
    std::chrono::duration<double> at{0};
    bool begun = false;
    for (;;) {
      at += std::chrono::duration<double>(poisson ? gap(random) : 1 / rate);
      const TimePoint intended = start + std::chrono::duration_cast<Duration>(at);
      if (!begun && intended >= begin) {
        SleepUntil(begin, stop);
        server_cpu = -ServerCpu(target);
        begun = true;
      }
      SleepUntil(std::min(intended, end.load()), stop);
      if (stop) end = std::max(begin, std::min(Now(), end.load()));
      if (intended >= end.load()) break;
      if (begun) lateness.Record(Now() - intended);
      caller.Start(intended);
    }
    server_cpu += ServerCpu(target);
    queue.Shutdown();
  });
  while (const std::unique_ptr<Call> call = NextCall(&queue)) {
    const TimePoint now = Now();
    if (now >= begin && now < end.load() && call->status.ok()) ++result.answered;
    if (call->intended >= begin) recorder.Record(call.get(), now);
  }
  sender.join();
  result.measured = end.load() - begin;
  result.lateness = std::move(lateness);
  result.server_cpu = server_cpu;
  return result;
}

}  // namespace sconce::bench
