// Requests of different lengths through replicas on devices: what each is answered with is what it
// would be answered with alone, whatever it shared a batch with.

#include <ATen/core/Tensor.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/base/clock.h"
#include "server/base/metrics.h"
#include "server/batching/batchers.h"
#include "server/batching/request_check.h"
#include "server/device/device_health.h"
#include "server/device/execution/torch_replica.h"
#include "server/loader/version_signature.h"
#include "server/loader/warm_up.h"
#include "server/registry/reaper.h"
#include "server/registry/registry.h"
#include "tests/device/sim_test.h"
#include "tests/support/function_net.h"

namespace sconce {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::Each;
using testing::Ge;
using testing::HasSubstr;
using testing::Le;

constexpr int64_t kLongest = 40;

// Of tokens from 1 to 99 and a mask that may be left out: twice each token that is not masked, and
// their mean.
models::Signature EncoderSignature() {
  models::Signature signature;
  signature.inputs = {{"ids", at::kLong, {-1}}, {"mask", at::kLong, {-1}}};
  signature.inputs[0].rules = {
      .sizes = {{2, kLongest}}, .values = models::Range{1, 99}, .padding = 99};
  signature.inputs[1].rules = {
      .sizes = {{2, kLongest}}, .values = models::Range{0, 1}, .absent = 1, .padding = 0};
  signature.outputs = {{"states", at::kFloat, {-1, 2}}, {"mean", at::kFloat, {1}}};
  signature.outputs[0].rules.padding = 0;
  return signature;
}

class RaggedTest : public SimTest {
 protected:
  RaggedTest() { registry_.AddObserver(&batchers_); }
  ~RaggedTest() override { registry_.Remove("m"); }

  std::shared_ptr<models::Net> Encoder() {
    return std::make_shared<FunctionNet>(EncoderSignature(), [this](const std::vector<at::Tensor>&
                                                                        inputs) {
      {
        const MutexLock lock(&mutex_);
        lengths_.push_back(inputs[0].size(1));
      }
      const at::Tensor kept = inputs[0].mul(inputs[1]).to(at::kFloat);
      const at::Tensor twice = kept.mul(2);
      const at::Tensor count = inputs[1].to(at::kFloat).sum({1}, /*keepdim=*/true);
      return std::vector<at::Tensor>{at::stack({twice, twice}, 2), kept.sum({1}, true).div(count)};
    });
  }

  // A version with a replica on each device, warmed up.
  void Publish(const std::vector<c10::Device>& devices) {
    auto version = std::make_unique<ModelVersion>();
    version->model = "m";
    version->number = 1;
    version->config.max_batch_size = 8;
    const auto signature = SignatureOf(EncoderSignature(), version->config);
    ASSERT_TRUE(signature.ok()) << signature.status();
    version->signature = signature->served;
    for (const c10::Device device : devices) {
      auto replica =
          std::make_shared<TorchReplica>(Encoder(), device, ExecutionOptions{}, &health_);
      const auto warm = WarmUp(*replica, signature->served, signature->native, 8);
      ASSERT_TRUE(warm.ok()) << warm.status();
      version->replicas.push_back(std::move(replica));
    }
    registry_.Publish(registry_.Add("m"), reaper_.Own(std::move(version)));
  }

  // Tokens `first`, `first` + 1, ... of which the last is masked, if there is a mask.
  struct Asked {
    int64_t length = 0;
    int64_t first = 1;
    bool mask = false;
  };
  std::future<std::string> Ask(const Asked& asked) {
    auto tokens = std::make_shared<std::vector<int64_t>>();
    auto mask = std::make_shared<std::vector<int64_t>>(asked.length, 1);
    for (int64_t i = 0; i < asked.length; ++i) tokens->push_back(1 + (asked.first + i) % 99);
    if (asked.mask) mask->back() = 0;
    InferRequest request;
    const auto add = [&](const char* name, const std::vector<int64_t>& values) {
      request.declared.push_back({name, "INT64", {1, asked.length}});
      request.bytes.push_back(
          {{{reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(int64_t)}}});
    };
    add("ids", *tokens);
    if (asked.mask) add("mask", *mask);
    request.wire = std::make_shared<std::pair<decltype(tokens), decltype(mask)>>(tokens, mask);
    request.checked_against = registry_.Find("m")->Pin();
    auto checked = CheckInputs("m", request.checked_against->signature, 8, request.declared);
    EXPECT_TRUE(checked.ok()) << checked.status();
    request.checked = *std::move(checked);
    EXPECT_TRUE(CheckElements(*request.checked_against, request).ok());
    request.arrival = Clock::Real()->Now();
    auto promise = std::make_shared<std::promise<std::string>>();
    request.done = [promise, tokens, mask](const absl::StatusOr<InferResponse>& answer) {
      promise->set_value(WhatIsWrong(answer, *tokens, *mask));
    };
    auto future = promise->get_future();
    batchers_.Find("m")->Submit(std::move(request));
    return future;
  }

  static std::string WhatIsWrong(const absl::StatusOr<InferResponse>& answer,
                                 const std::vector<int64_t>& tokens,
                                 const std::vector<int64_t>& mask) {
    if (!answer.ok()) return std::string(answer.status().message());
    const auto length = static_cast<int64_t>(tokens.size());
    const HostTensor& states = answer->outputs.at(0);
    if (states.shape != std::vector<int64_t>{1, length, 2}) return "the states have another shape";
    std::vector<float> got(tokens.size() * 2);
    if (states.bytes.size() != got.size() * sizeof(float)) return "the states are not all there";
    std::memcpy(got.data(), states.bytes.data(), states.bytes.size());
    float sum = 0, count = 0;
    for (size_t i = 0; i < tokens.size(); ++i) {
      const auto kept = static_cast<float>(tokens[i] * mask[i]);
      if (got[2 * i] != 2 * kept || got[2 * i + 1] != 2 * kept) return "a state is another one's";
      sum += kept;
      count += static_cast<float>(mask[i]);
    }
    float mean = 0;
    std::memcpy(&mean, answer->outputs.at(1).bytes.data(), sizeof mean);
    return mean == sum / count ? "" : "the mean is not that of its tokens";
  }

  void AskManyOn(const std::vector<c10::Device>& devices) {
    Publish(devices);
    constexpr int kRequests = 600;
    std::vector<std::future<std::string>> answers;
    for (int i = 0; i < kRequests; ++i) {
      answers.push_back(
          Ask({.length = 2 + (i * 7) % (kLongest - 1), .first = i, .mask = i % 3 == 0}));
    }
    for (auto& answer : answers) EXPECT_EQ(answer.get(), "");
    const StatisticsSnapshot counts = registry_.Find("m")->statistics().Snapshot();
    EXPECT_EQ(counts.inference_count, uint64_t{kRequests});
    EXPECT_LT(counts.execution_count, uint64_t{kRequests}) << "some shared a batch";
  }

  DeviceHealth health_;
  Metrics metrics_;
  Reaper reaper_;
  Registry registry_;
  Batchers batchers_{&metrics_, Clock::Real()};
  Mutex mutex_;
  std::vector<int64_t> lengths_ ABSL_GUARDED_BY(mutex_);
};

TEST_F(RaggedTest, EachIsAnsweredAsIfItWereAloneOnDevices) { AskManyOn({sim0_, sim1_}); }

TEST_F(RaggedTest, EachIsAnsweredAsIfItWereAloneOnTheCpu) {
  AskManyOn({c10::Device(c10::DeviceType::CPU)});
}

TEST_F(RaggedTest, WarmUpTriesTheShortestAndTheLongest) {
  Publish({sim0_});
  const MutexLock lock(&mutex_);
  EXPECT_THAT(lengths_, Contains(2));
  EXPECT_THAT(lengths_, Contains(kLongest));
  EXPECT_THAT(lengths_, Each(AllOf(Ge(2), Le(kLongest))));
}

TEST_F(RaggedTest, ANetworkOfWholeShapesRunsOnADeviceAsItIs) {
  models::Signature signature;
  signature.inputs = {{"x", at::kFloat, {3, 2}}};
  signature.outputs = {{"y", at::kFloat, {}}};
  signature.rows.batched = false;
  const auto net =
      std::make_shared<FunctionNet>(signature, [](const std::vector<at::Tensor>& inputs) {
        return std::vector<at::Tensor>{inputs[0].sum()};
      });
  const auto served = SignatureOf(signature, {});
  ASSERT_TRUE(served.ok()) << served.status();
  TorchReplica replica(net, sim0_, {}, &health_);
  const auto warm = WarmUp(replica, served->served, served->native, 64);
  ASSERT_TRUE(warm.ok()) << warm.status();
  EXPECT_THAT(*warm, HasSubstr("runs without graphs: it has no batch dimension"));
}

TEST_F(RaggedTest, ANetworkOfAFixedNumberOfRowsIsNeverRunWithAnother) {
  models::Signature signature;
  signature.inputs = {{"x", at::kFloat, {2}}};
  signature.outputs = {{"y", at::kFloat, {2}}};
  signature.rows.rows = {4, 4};
  const auto net =
      std::make_shared<FunctionNet>(signature, [](const std::vector<at::Tensor>& inputs) {
        TORCH_CHECK(inputs[0].size(0) == 4, "expected 4 rows, got ", inputs[0].size(0));
        return std::vector<at::Tensor>{inputs[0].add(1)};
      });
  const auto served = SignatureOf(signature, {});
  ASSERT_TRUE(served.ok()) << served.status();
  for (const c10::Device device : {sim0_, c10::Device(c10::DeviceType::CPU)}) {
    TorchReplica replica(net, device, {}, &health_);
    const auto warm =
        WarmUp(replica, served->served, served->native, LargestBatch(served->served.rows, 64));
    EXPECT_TRUE(warm.ok()) << warm.status();
    EXPECT_TRUE(RunOneRow(replica, served->served, served->native).ok());
  }
}

// What clients see as 6 numbers the network has as [2, 3]; its [3, 2] they see as 6 again.
TEST_F(RaggedTest, TensorsHaveTheShapesThatTheConfigurationSays) {
  models::Signature signature;
  signature.inputs = {{"x", at::kFloat, {2, 3}}};
  signature.outputs = {{"y", at::kFloat, {3, 2}}};
  const auto net =
      std::make_shared<FunctionNet>(signature, [](const std::vector<at::Tensor>& inputs) {
        TORCH_CHECK(inputs[0].dim() == 3 && inputs[0].size(2) == 3, "expected [N, 2, 3]");
        return std::vector<at::Tensor>{inputs[0].transpose(1, 2).add(1)};
      });
  ModelConfig config;
  config.inputs = {{"INPUT__0", DType::kFloat32, {6}}};
  config.outputs = {{"OUTPUT__0", DType::kFloat32, {6}}};
  config.execution.reshape_inputs = {Reshape{{6}, {2, 3}}};
  config.execution.reshape_outputs = {Reshape{{6}, {3, 2}}};
  const auto served = SignatureOf(signature, config);
  ASSERT_TRUE(served.ok()) << served.status();
  for (const c10::Device device : {sim0_, c10::Device(c10::DeviceType::CPU)}) {
    TorchReplica replica(net, device, served->execution, &health_);
    ASSERT_TRUE(WarmUp(replica, served->served, served->native, 4).ok());
    auto staged = replica.Stage(std::vector<int64_t>{2 * 6 * 4});
    ASSERT_TRUE(staged.ok());
    BatchInput batch;
    batch.inputs = *std::move(staged);
    batch.inputs[0].dtype = DType::kFloat32;
    batch.inputs[0].shape = {2, 6};
    std::vector<float> values = {1, 2, 3, 4, 5, 6, 10, 20, 30, 40, 50, 60};
    std::memcpy(batch.inputs[0].bytes.data(), values.data(), values.size() * sizeof(float));
    const auto outputs = replica.Run(std::move(batch));
    ASSERT_TRUE(outputs.ok()) << outputs.status();
    EXPECT_EQ(outputs->at(0).shape, (std::vector<int64_t>{2, 6}));
    std::memcpy(values.data(), outputs->at(0).bytes.data(), values.size() * sizeof(float));
    EXPECT_EQ(values, (std::vector<float>{2, 5, 3, 6, 4, 7, 11, 41, 21, 51, 31, 61}));
  }
}

TEST(VersionSignatureTest, TheConfigurationMayRenameAndReorder) {
  models::Signature network;
  network.inputs = {{"a", at::kFloat, {2}}, {"b", at::kLong, {3}}};
  network.outputs = {{"y", at::kFloat, {1}}};
  const auto names = [&](std::vector<TensorSpec> configured) {
    ModelConfig config;
    config.inputs = std::move(configured);
    const auto signature = SignatureOf(network, config);
    std::string text;
    if (!signature.ok()) return std::string(signature.status().message());
    for (const TensorSpec& spec : signature->served.inputs) text += spec.name + " ";
    return text;
  };
  EXPECT_EQ(names({{"b", DType::kInt64, {3}}, {"a", DType::kFloat32, {2}}}), "a b ");
  EXPECT_EQ(names({{"X__1", DType::kInt64, {3}}, {"X__0", DType::kFloat32, {2}}}), "X__0 X__1 ");
  EXPECT_EQ(names({{"p", DType::kFloat32, {2}}, {"q", DType::kInt64, {3}}}), "p q ");
  EXPECT_EQ(names({{"a", DType::kFloat32, {2}}}),
            "config.pbtxt: input: expected the datatypes and ranks of 'a' FP32[-1,2], 'b' "
            "INT64[-1,3], got 'a' FP32[-1,2]");
  network.inputs[1] = {"b", at::kFloat, {2}};
  network.inputs[1].rules.absent = 1;
  EXPECT_EQ(names({{"a", DType::kFloat32, {2}}}), "a b ");
}

TEST(VersionSignatureTest, WithoutABatchTheRowsAreADimensionLikeOthers) {
  models::Signature network;
  network.inputs = {{"x", at::kFloat, {2}}};
  network.outputs = {{"y", at::kFloat, {1}}};
  network.rows.rows = {1, 8};
  ModelConfig config;
  config.max_batch_size = 0;
  auto signature = SignatureOf(network, config);
  ASSERT_TRUE(signature.ok()) << signature.status();
  EXPECT_EQ(SpecString(signature->served.inputs[0], false), "FP32[1..8,2]");
  EXPECT_FALSE(signature->served.rows.batched);
  config.inputs = {{"x", DType::kFloat32, {4, 2}}};
  signature = SignatureOf(network, config);
  ASSERT_TRUE(signature.ok()) << signature.status();
  EXPECT_EQ(SpecString(signature->served.inputs[0], false), "FP32[4,2]");
}

}  // namespace
}  // namespace sconce
