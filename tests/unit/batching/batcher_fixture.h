// A batcher of one model "m" on fake replicas, and requests to it.

#ifndef SCONCE_TESTS_UNIT_BATCHING_BATCHER_FIXTURE_H_
#define SCONCE_TESTS_UNIT_BATCHING_BATCHER_FIXTURE_H_

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/batching/batchers.h"
#include "server/registry/reaper.h"
#include "tests/support/fake_replica.h"

namespace sconce {

using Answer = absl::StatusOr<InferResponse>;

class BatcherTest : public ::testing::Test {
 protected:
  explicit BatcherTest(const Clock* clock = Clock::Real())
      : clock_(clock),
        batchers_(
            &metrics_, clock,
            [this](const std::shared_ptr<Model>& model,
                   const std::shared_ptr<const ModelVersion>& version,
                   const std::string& reason) { registry_.RetireLost(model, *version, reason); }) {
    registry_.AddObserver(&batchers_);
  }
  ~BatcherTest() override { registry_.Remove("m"); }

  void Publish(std::unique_ptr<ModelVersion> version) {
    registry_.Publish(registry_.Add("m"), reaper_.Own(std::move(version)));
  }
  void Publish(int64_t number, FakeReplica::Behaviour behaviour, size_t replicas = 1) {
    Publish(MakeFakeVersion("m", number, std::move(behaviour), {2}, replicas));
  }
  std::shared_ptr<const ModelVersion> Version(int64_t number, FakeReplica::Behaviour behaviour,
                                              size_t replicas = 1) {
    return reaper_.Own(MakeFakeVersion("m", number, std::move(behaviour), {2}, replicas));
  }
  // Version `number`, whose every value is its number.
  std::shared_ptr<const ModelVersion> Telling(int64_t number, size_t replicas = 1) {
    return Version(number, {.scale = 0, .bias = static_cast<float>(number)}, replicas);
  }
  void Serve(Serving serving) { registry_.Serve(registry_.Add("m"), std::move(serving)); }

  // A version with a replica for each behaviour.
  void PublishOn(int64_t number, std::vector<FakeReplica::Behaviour> behaviours) {
    auto version = MakeFakeVersion("m", number, {}, {2}, 0);
    for (FakeReplica::Behaviour& behaviour : behaviours) {
      version->replicas.push_back(std::make_unique<FakeReplica>(std::move(behaviour)));
    }
    Publish(std::move(version));
  }

  InferRequest Request(int64_t rows, float value) {
    auto wire = std::make_shared<std::vector<float>>(rows * 2, value);
    InferRequest request;
    request.declared = {{"x", "FP32", {rows, 2}}};
    const absl::Span<const std::byte> bytes(reinterpret_cast<std::byte*>(wire->data()),
                                            wire->size() * sizeof(float));
    request.bytes = {{{bytes}}};
    request.wire = wire;
    request.checked_against = registry_.Find("m")->Pin();
    request.checked =
        *CheckInputs("m", request.checked_against->signature,
                     request.checked_against->config.max_batch_size, request.declared);
    request.arrival = clock_->Now();
    return request;
  }
  InferRequest RequestOf(int64_t wanted_version, int64_t rows = 1, float value = 0) {
    InferRequest request = Request(rows, value);
    request.wanted_version = wanted_version;
    return request;
  }
  std::future<Answer> Submit(InferRequest request) {
    auto promise = std::make_shared<std::promise<Answer>>();
    request.done = [promise](Answer answer) { promise->set_value(std::move(answer)); };
    batchers_.Find("m")->Submit(std::move(request));
    return promise->get_future();
  }

  // Publishes versions 1 to `swaps`, whose every value is their number, under the requests of four
  // clients, and expects each request to be answered by one version, with that version's values.
  void SwapUnderLoad(int64_t swaps, const std::function<void(int64_t number)>& publish) {
    publish(1);
    std::atomic<bool> stop{false};
    std::atomic<int64_t> answered{0};
    std::vector<std::thread> clients;
    for (int c = 0; c < 4; ++c) {
      clients.emplace_back([&, c] {
        while (!stop) {
          const Answer answer = Submit(Request(1 + c, 7)).get();
          ASSERT_TRUE(answer.ok()) << answer.status();
          const auto number = static_cast<float>(answer->version->number);
          ASSERT_EQ(Values(*answer), std::vector<float>((1 + c) * 2, number));
          ++answered;
        }
      });
    }
    for (int64_t number = 2; number <= swaps; ++number) {
      const int64_t before = answered;
      publish(number);
      while (answered < before + 2) std::this_thread::yield();
    }
    stop = true;
    for (std::thread& client : clients) client.join();
    EXPECT_EQ(registry_.Find("m")->statistics().Snapshot().fail.count, 0u);
    while (reaper_.reaped() < swaps - 1) std::this_thread::yield();
  }

  static std::vector<float> Values(const InferResponse& response) {
    std::vector<float> values(response.outputs[0].bytes.size() / sizeof(float));
    std::memcpy(values.data(), response.outputs[0].bytes.data(), values.size() * sizeof(float));
    return values;
  }

  // The value of a metric of the model; -1 where there is none.
  double MetricOf(const std::string& name) const {
    const std::string text = metrics_.Serialize();
    const std::string line = name + "{model=\"m\"} ";
    const size_t at = text.find(line);
    return at == text.npos ? -1 : std::stod(text.substr(at + line.size()));
  }

  const Clock* const clock_;
  Metrics metrics_;
  Reaper reaper_;
  Registry registry_;
  Batchers batchers_;
};

}  // namespace sconce

#endif  // SCONCE_TESTS_UNIT_BATCHING_BATCHER_FIXTURE_H_
