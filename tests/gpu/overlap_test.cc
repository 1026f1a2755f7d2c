// That batches overlap where they may and never touch each other's memory.
#include <ATen/ops/equal.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "server/device/execution/torch_replica.h"
#include "tests/gpu/backend.h"
#include "tests/gpu/suite.h"
#include "tests/support/function_net.h"

namespace sconce::gpu {
namespace {

// What holds a stream until the test lets it go. A test that forgets to fails instead of hanging.
class Gate {
 public:
  void Open() {
    const std::lock_guard<std::mutex> lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

  void Close() {
    const std::lock_guard<std::mutex> lock(mutex_);
    open_ = false;
    arrived_ = 0;
  }

  // On the stream's behalf.
  void Pass() {
    std::unique_lock<std::mutex> lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    if (!changed_.wait_for(lock, std::chrono::seconds(30), [this] { return open_; })) {
      timed_out_ = true;
    }
  }

  // Until that many batches have come to the gate since it was closed.
  bool WaitForArrivals(int count) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(30),
                             [this, count] { return arrived_ >= count; });
  }

  bool timed_out() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return timed_out_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  bool open_ = true;
  bool timed_out_ = false;
};

class GpuOverlap : public GpuTest {
 protected:
  // x + 1, once `gate` is open.
  std::unique_ptr<TorchReplica> GatedReplica(const std::shared_ptr<Gate>& gate) const {
    auto net = MakeFunction({16}, [gate, device = device_](const at::Tensor& x) {
      if (gate != nullptr) {
        Queue(c10::impl::VirtualGuardImpl(device.type()).getStream(device),
              [gate] { gate->Pass(); });
      }
      return x.add(1);
    });
    ExecutionOptions options;
    options.graphs = false;
    return std::make_unique<TorchReplica>(std::move(net), device_, options, nullptr);
  }
};

TEST_F(GpuOverlap, StagedMemoryIsPageLocked) {
  const auto replica = GatedReplica(nullptr);
  const HostTensor staged = Stage(*replica, Normal({4, 16}, 1));
  EXPECT_EQ(reinterpret_cast<uintptr_t>(staged.bytes.data()) % 64, 0u);
  EXPECT_TRUE(View(staged).is_pinned());
}

// Takes all memory that batches of that shape will need: a device may wait for all its work before
// it gives more, or before it runs a kernel for the first time.
void Prepare(Replica& replica, const at::Tensor& values) {
  for (int round = 0; round < 3; ++round) {
    std::vector<std::unique_ptr<RunningBatch>> running;
    for (int i = 0; i < replica.depth(); ++i) {
      auto launched = replica.Launch(Batch(replica, values));
      ASSERT_TRUE(launched.ok()) << launched.status();
      running.push_back(*std::move(launched));
    }
    for (const auto& batch : running) ASSERT_TRUE(batch->Finish().ok());
  }
}

TEST_F(GpuOverlap, TheNextBatchIsStagedAndLaunchedWhileOneComputes) {
  const auto gate = std::make_shared<Gate>();
  const auto replica = GatedReplica(gate);
  ASSERT_GE(replica->depth(), 2);
  const at::Tensor first = Normal({4, 16}, 1), second = Normal({4, 16}, 2);
  Prepare(*replica, first);
  gate->Close();
  auto running = replica->Launch(Batch(*replica, first));
  ASSERT_TRUE(running.ok()) << running.status();
  ASSERT_TRUE(gate->WaitForArrivals(1));
  auto next = replica->Launch(Batch(*replica, second));
  ASSERT_TRUE(next.ok()) << next.status();
  gate->Open();
  const auto outputs = (*running)->Finish();
  ASSERT_TRUE(outputs.ok()) << outputs.status();
  const auto next_outputs = (*next)->Finish();
  ASSERT_TRUE(next_outputs.ok()) << next_outputs.status();
  EXPECT_TRUE(at::equal(View(outputs->front()), first.add(1)));
  EXPECT_TRUE(at::equal(View(next_outputs->front()), second.add(1)));
  EXPECT_FALSE(gate->timed_out());
}

TEST_F(GpuOverlap, AReplicaDoesNotWaitForAnotherOnItsDevice) {
  const auto gate = std::make_shared<Gate>();
  const auto held = GatedReplica(gate);
  const auto free = GatedReplica(nullptr);
  const at::Tensor x = Normal({4, 16}, 1);
  Prepare(*held, x);
  Prepare(*free, x);
  gate->Close();
  auto running = held->Launch(Batch(*held, x));
  ASSERT_TRUE(running.ok()) << running.status();
  ASSERT_TRUE(gate->WaitForArrivals(1));
  EXPECT_TRUE(at::equal(Answer(*free, x), x.add(1)));
  gate->Open();
  EXPECT_TRUE((*running)->Finish().ok());
  EXPECT_FALSE(gate->timed_out());
}

// Sizes change and memory is reused as soon as it may be: a copy that comes too late or too early
// gives another batch's numbers.
void AnswerManyInFlight(Replica& replica, const Network& network, uint64_t seed) {
  struct Sent {
    std::unique_ptr<RunningBatch> running;
    at::Tensor expected;
  };
  std::vector<at::Tensor> inputs, expected;
  for (int64_t rows = 1; rows <= 8; ++rows) {
    inputs.push_back(Normal(network.Shape(rows), seed + rows));
    expected.push_back(Answer(replica, inputs.back()));
  }
  std::deque<Sent> in_flight;
  int wrong = 0;
  const auto finish_one = [&] {
    const auto outputs = in_flight.front().running->Finish();
    ASSERT_TRUE(outputs.ok()) << outputs.status();
    // Another batch's numbers are off by much more than another order of sums.
    if (RelativeError(View(outputs->front()), in_flight.front().expected) > 1e-5) ++wrong;
    in_flight.pop_front();
  };
  for (int i = 0; i < 400; ++i) {
    const size_t which = (i * 5 + i / 7) % inputs.size();
    auto running = replica.Launch(Batch(replica, inputs[which]));
    ASSERT_TRUE(running.ok()) << running.status();
    in_flight.push_back({*std::move(running), expected[which]});
    if (static_cast<int>(in_flight.size()) == replica.depth()) finish_one();
  }
  while (!in_flight.empty()) finish_one();
  EXPECT_EQ(wrong, 0);
}

TEST_F(GpuOverlap, EveryBatchInFlightGetsItsOwnAnswer) {
  for (const bool graphs : {false, true}) {
    LoadSettings settings;
    settings.execution.graphs = graphs;
    const auto version = Load(SmallMlp(), device_, settings);
    ASSERT_NE(version, nullptr);
    AnswerManyInFlight(*version->replicas.front(), SmallMlp(), 10);
  }
}

TEST_F(GpuOverlap, ReplicasOnSeveralThreadsGetTheirOwnAnswers) {
  std::vector<std::unique_ptr<ModelVersion>> versions;
  for (uint64_t i = 0; i < 3; ++i) {
    LoadSettings settings;
    settings.seed = i + 1;
    versions.push_back(Load(SmallMlp(), Devices()[i % Devices().size()], settings));
    ASSERT_NE(versions.back(), nullptr);
  }
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < versions.size(); ++i) {
    threads.emplace_back([&replica = *versions[i]->replicas.front(), i] {
      AnswerManyInFlight(replica, SmallMlp(), 100 * i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace sconce::gpu
