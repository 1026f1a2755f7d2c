// What batching costs without a network: the policy, the assembly of a batch, and the whole way
// from Submit through a batch to the answer.

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <semaphore>
#include <string>
#include <utility>
#include <vector>

#include "server/batching/batch_assembly.h"
#include "server/batching/batch_policy.h"
#include "server/batching/batchers.h"
#include "server/registry/reaper.h"
#include "server/registry/registry.h"
#include "tests/support/fake_replica.h"

namespace sconce {
namespace {

// Answers with four zeros a row, whatever comes; takes no time.
class IdleReplica : public FakeReplica {
 public:
  static constexpr int64_t kColumns = 4;

  IdleReplica() : FakeReplica({}) {}

  absl::StatusOr<std::unique_ptr<RunningBatch>> Launch(BatchInput batch) override {
    const int64_t rows = batch.inputs[0].shape[0];
    auto memory = std::make_shared<std::vector<std::byte>>(rows * kColumns * sizeof(float));
    return std::make_unique<Done>(std::vector<HostTensor>{
        {DType::kFloat32, {rows, kColumns}, absl::MakeSpan(*memory), memory}});
  }

 private:
  class Done : public RunningBatch {
   public:
    explicit Done(std::vector<HostTensor> outputs) : outputs_(std::move(outputs)) {}
    absl::StatusOr<std::vector<HostTensor>> Finish() override { return std::move(outputs_); }

   private:
    std::vector<HostTensor> outputs_;
  };
};

constexpr char kModel[] = "idle";

std::unique_ptr<ModelVersion> IdleVersion(int64_t columns) {
  auto version = std::make_unique<ModelVersion>();
  version->model = std::string(kModel);
  version->number = 1;
  version->signature.inputs = {{"x", DType::kFloat32, {columns}}};
  version->signature.outputs = {{"y", DType::kFloat32, {IdleReplica::kColumns}}};
  version->config.max_queue_size = 1 << 20;
  version->replicas.push_back(std::make_unique<IdleReplica>());
  return version;
}

// One row of `columns` floats; `bytes` stay where they are.
InferRequest Request(std::shared_ptr<const ModelVersion> version,
                     absl::Span<const std::byte> bytes) {
  InferRequest request;
  request.declared = {{"x", "FP32", {1, static_cast<int64_t>(bytes.size() / sizeof(float))}}};
  request.bytes = {{{bytes}}};
  request.checked = *CheckInputs(version->Label(), version->signature,
                                 version->config.max_batch_size, request.declared);
  request.checked_against = std::move(version);
  request.arrival = Clock::Real()->Now();
  return request;
}

void PlanBatchOfWaiting(benchmark::State& state) {
  const std::string key(24, 'k');
  const TimePoint now = Clock::Real()->Now();
  ServiceTimes times;
  for (int64_t rows = 1; rows <= 64; rows *= 2) {
    times.Record(rows, std::chrono::milliseconds(1), now);
  }
  const WaitingRequest one{.rows = 1, .shape_key = key, .deadline = now + std::chrono::seconds(1)};
  const std::vector<WaitingRequest> waiting(state.range(0), one);
  const BatchLimits limits{.rows = 64, .compute_times = &times};
  for (auto _ : state) {
    benchmark::DoNotOptimize(PlanBatch(waiting, now, now, {&limits, 1}));
  }
}
BENCHMARK(PlanBatchOfWaiting)->Arg(1)->Arg(64)->Arg(1024);

void AssembleBatch(benchmark::State& state) {
  const int64_t requests = state.range(0);
  const int64_t size = state.range(1);
  const auto version = std::shared_ptr<const ModelVersion>(IdleVersion(size / sizeof(float)));
  const std::vector<std::byte> wire(requests * size);
  std::vector<InferRequest> batch;
  for (int64_t i = 0; i < requests; ++i) {
    batch.push_back(Request(version, absl::MakeConstSpan(wire).subspan(i * size, size)));
  }
  std::vector<std::byte> staging(requests * size);
  std::vector<BatchInput::FromDevice> from_device;
  for (auto _ : state) {
    AssembleInput(batch, 0, absl::MakeSpan(staging), &from_device);
    benchmark::DoNotOptimize(staging.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * requests * size);
}
BENCHMARK(AssembleBatch)->ArgNames({"requests", "bytes"})->Args({64, 64})->Args({64, 150'000});

// `in_flight` requests are always between Submit and answer: 1 is the way there and back of a
// request that is alone, 64 fills batches. Processor time is that of all threads.
void SubmitToAnswer(benchmark::State& state) {
  const int64_t in_flight = state.range(0);
  const int64_t size = state.range(1);
  Metrics metrics;
  Reaper reaper;
  Registry registry;
  Batchers batchers(&metrics, Clock::Real());
  registry.AddObserver(&batchers);
  const std::shared_ptr<Model> model = registry.Add(kModel);
  registry.Publish(model, reaper.Own(IdleVersion(size / sizeof(float))));
  {
    const std::shared_ptr<Batcher> batcher = batchers.Find(kModel);
    const std::vector<std::byte> wire(size);
    std::counting_semaphore<> free(in_flight);
    for (auto _ : state) {
      free.acquire();
      InferRequest request = Request(model->Pin(), wire);
      request.done = [&free](absl::StatusOr<InferResponse>) { free.release(); };
      batcher->Submit(std::move(request));
    }
    for (int64_t i = 0; i < in_flight; ++i) free.acquire();
  }
  const StatisticsSnapshot counts = model->statistics().Snapshot();
  state.counters["rows/batch"] =
      static_cast<double>(counts.inference_count) / static_cast<double>(counts.execution_count);
  registry.Remove(kModel);
}
BENCHMARK(SubmitToAnswer)
    ->ArgNames({"in_flight", "bytes"})
    ->Args({1, 64})
    ->Args({64, 64})
    ->Args({64, 150'000})
    ->UseRealTime()
    ->MeasureProcessCPUTime();

}  // namespace
}  // namespace sconce
