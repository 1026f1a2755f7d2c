#include "bench/gpu/served.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <random>
#include <semaphore>
#include <thread>
#include <utility>

#include "bench/load_generator/latency_histogram.h"
#include "server/base/dtype.h"

namespace sconce::bench {
namespace {

// More than a processor's caches hold, so that assembling a batch costs what it does in service.
constexpr size_t kDistinctRows = 256;

Duration Seconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

}  // namespace

Served::Served(const Workload& workload, std::unique_ptr<ModelVersion> version)
    : workload_(workload), batchers_(&metrics_, Clock::Real()) {
  registry_.AddObserver(&batchers_);
  model_ = registry_.Add(workload_.name);
  for (size_t i = 0; i < kDistinctRows; ++i) rows_.push_back(RandomRows(workload_, 1));
  Publish(std::move(version));
  batcher_ = batchers_.Find(workload_.name);
}

Served::~Served() {
  batcher_.reset();
  registry_.Remove(workload_.name);
}

TimePoint Served::Publish(std::unique_ptr<ModelVersion> version) {
  registry_.Publish(model_, reaper_.Own(std::move(version)));
  return Clock::Real()->Now();
}

InferRequest Served::NewRequest(size_t row) const {
  const at::Tensor& values = rows_[row % rows_.size()];
  InferRequest request;
  request.declared = {{workload_.input.name, std::string(OipDatatype(workload_.input.dtype)),
                       values.sizes().vec()}};
  request.bytes.resize(1);
  request.bytes[0].pieces = {
      {static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes()}};
  std::shared_ptr<const ModelVersion> version = model_->Pin();
  request.checked = *CheckInputs(version->Label(), version->signature,
                                 version->config.max_batch_size, request.declared);
  request.checked_against = std::move(version);
  request.arrival = Clock::Real()->Now();
  return request;
}

Window Served::Closed(int in_flight, double seconds) {
  struct Shared {
    explicit Shared(int in_flight) : free(in_flight) {}
    std::counting_semaphore<> free;
    Mutex mutex;
    LatencyHistogram latencies ABSL_GUARDED_BY(mutex);
    std::atomic<int64_t> answered = 0;
    std::atomic<int64_t> failed = 0;
  } shared(in_flight);

  const TimePoint begin = Clock::Real()->Now();
  // Until the queue is as full as it will be, nothing counts.
  const TimePoint from = begin + Seconds(0.1 * seconds);
  const TimePoint until = from + Seconds(seconds);
  int64_t answered_at_from = -1;
  size_t row = 0;
  for (TimePoint now = begin; now < until; now = Clock::Real()->Now()) {
    if (answered_at_from < 0 && now >= from) answered_at_from = shared.answered;
    shared.free.acquire();
    InferRequest request = NewRequest(row++);
    request.done = [&shared, arrival = request.arrival](absl::StatusOr<InferResponse> response) {
      if (response.ok()) {
        const Duration latency = Clock::Real()->Now() - arrival;
        MutexLock lock(&shared.mutex);
        shared.latencies.Record(latency);
      } else {
        ++shared.failed;
      }
      ++shared.answered;
      shared.free.release();
    };
    batcher_->Submit(std::move(request));
  }
  const int64_t answered = shared.answered - std::max<int64_t>(answered_at_from, 0);
  const double took = ToSeconds(Clock::Real()->Now() - from);
  for (int i = 0; i < in_flight; ++i) shared.free.acquire();

  Window window;
  MutexLock lock(&shared.mutex);
  window.per_second = static_cast<double>(answered) / took;
  window.p50_ms = 1e3 * ToSeconds(shared.latencies.Quantile(0.5));
  window.p99_ms = 1e3 * ToSeconds(shared.latencies.Quantile(0.99));
  window.failed = shared.failed;
  return window;
}

std::vector<Sample> Served::Open(double per_second, double seconds) {
  std::mt19937_64 random(1);
  std::exponential_distribution<double> gap(per_second);
  std::vector<Sample> samples;
  const TimePoint begin = Clock::Real()->Now() + std::chrono::milliseconds(1);
  for (double at = gap(random); at < seconds || samples.empty(); at += gap(random)) {
    samples.push_back({begin + Seconds(at), {}, false});
  }
  std::counting_semaphore<> answered(0);
  for (size_t i = 0; i < samples.size(); ++i) {
    Sample* const sample = &samples[i];
    // A sleep is late by tens of microseconds; requests may be closer than that.
    const Duration ahead = sample->intended - Clock::Real()->Now();
    if (ahead > std::chrono::microseconds(200)) {
      std::this_thread::sleep_for(ahead - std::chrono::microseconds(100));
    }
    while (Clock::Real()->Now() < sample->intended) std::this_thread::yield();
    InferRequest request = NewRequest(i);
    request.done = [sample, &answered](absl::StatusOr<InferResponse> response) {
      sample->ok = response.ok();
      sample->latency = Clock::Real()->Now() - sample->intended;
      answered.release();
    };
    batcher_->Submit(std::move(request));
  }
  for (size_t i = 0; i < samples.size(); ++i) answered.acquire();
  return samples;
}

Window Served::WindowOf(const std::vector<Sample>& samples, double seconds) {
  Window window;
  LatencyHistogram latencies;
  for (const Sample& sample : samples) {
    if (sample.ok) {
      latencies.Record(sample.latency);
    } else {
      ++window.failed;
    }
  }
  window.per_second = static_cast<double>(latencies.count()) / seconds;
  window.p50_ms = 1e3 * ToSeconds(latencies.Quantile(0.5));
  window.p99_ms = 1e3 * ToSeconds(latencies.Quantile(0.99));
  return window;
}

}  // namespace sconce::bench
