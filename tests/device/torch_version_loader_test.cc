// Loads of weights files to simulated devices: where replicas are put, what is measured, what is
// refused, and what a load that fails leaves behind.
#include "server/loader/torch_version_loader.h"

#include <ATen/ops/ones.h>

#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "models/catalog.h"
#include "models/program/graph_net.h"
#include "server/loader/version_signature.h"
#include "tests/device/sim_test.h"
#include "tests/support/random_weights.h"
#include "tests/support/temp_dir.h"

namespace sconce {
namespace {

using Kind = InstanceGroup::Kind;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr absl::StatusCode kExhausted = absl::StatusCode::kResourceExhausted;

class TorchVersionLoaderTest : public SimTest {
 protected:
  TorchVersionLoaderTest() {
    for (const models::Architecture* architecture : models::Catalog()) {
      if (architecture->name() != "linear") continue;
      auto net = architecture->Create(
          {{"in_features", int64_t{64}}, {"out_features", int64_t{1000}}, {"bias", true}});
      if (net.ok()) net_ = *std::move(net);
    }
    WriteWeights(1);
    request_.model = "m";
    request_.weights_path = dir_.Path("model.safetensors");
    request_.config.max_batch_size = 4;
  }

  void WriteWeights(uint64_t seed) {
    const absl::Status written =
        WriteSafetensors(RandomWeights(*net_, seed), dir_.Path("model.safetensors"));
    ASSERT_TRUE(written.ok()) << written;
  }

  absl::StatusOr<std::unique_ptr<ModelVersion>> Load() {
    auto loaded = loader_.Load(request_);
    if (!loaded.ok()) return loaded.status();
    return std::move(loaded->version);
  }

  static std::vector<std::string> Devices(const ModelVersion& version) {
    std::vector<std::string> devices;
    for (const auto& replica : version.replicas) devices.push_back(replica->device());
    return devices;
  }

  static std::vector<HostTensor> Run(const ModelVersion& version, size_t replica) {
    auto staged = version.replicas[replica]->Stage({4 * 64});
    EXPECT_TRUE(staged.ok()) << staged.status();
    HostTensor& input = staged->front();
    for (size_t i = 0; i < 64; ++i) {
      const float value = static_cast<float>(i) / 64;
      std::memcpy(input.bytes.data() + 4 * i, &value, 4);
    }
    input.dtype = DType::kFloat32;
    input.shape = {1, 64};
    BatchInput batch;
    batch.inputs.push_back(std::move(input));
    auto outputs = version.replicas[replica]->Run(std::move(batch));
    EXPECT_TRUE(outputs.ok()) << outputs.status();
    return *std::move(outputs);
  }
  static std::string Bytes(const HostTensor& tensor) {
    return std::string(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
  }

  int64_t LiveBytes() const {
    return simdevice::StatisticsOf(sim0_).live_bytes + simdevice::StatisticsOf(sim1_).live_bytes;
  }

  TempDir dir_;
  std::unique_ptr<models::Net> net_;
  DeviceHealth health_;
  TorchVersionLoader loader_{{sim0_, sim1_}, {}, &health_};
  LoadRequest request_;
};

TEST_F(TorchVersionLoaderTest, EveryGroupGetsItsReplicasAndAllAnswerAlike) {
  request_.config.instances = {{2, Kind::kGpu, {1}}, {1, Kind::kCpu, {}}, {1, Kind::kAuto, {}}};
  const auto version = Load();
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_THAT(Devices(**version), ElementsAre("sim:0", "sim:1", "sim:1", "sim:1", "cpu"));
  const std::string expected = Bytes(Run(**version, 4)[0]);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(Bytes(Run(**version, i)[0]), expected) << i;
}

TEST_F(TorchVersionLoaderTest, WeightsIdIsTheSameOnEveryDevice) {
  const auto on_device = Load();
  ASSERT_TRUE(on_device.ok()) << on_device.status();
  request_.config.instances = {{1, Kind::kCpu, {}}};
  const auto on_cpu = Load();
  ASSERT_TRUE(on_cpu.ok()) << on_cpu.status();
  EXPECT_EQ((*on_device)->weights_id, (*on_cpu)->weights_id);
  EXPECT_EQ((*on_device)->weights_id.size(), 32u);
}

TEST_F(TorchVersionLoaderTest, ReplicasOfADeviceShareItsWeights) {
  request_.config.instances = {{3, Kind::kGpu, {0}}};
  const auto version = Load();
  ASSERT_TRUE(version.ok()) << version.status();
  ASSERT_EQ((*version)->footprints.size(), 1u);
  // 64 x 1000 and 1000 floats.
  EXPECT_EQ((*version)->footprints[0].weights_bytes, 256'000 + 4096);
}

TEST_F(TorchVersionLoaderTest, WhatIsMeasuredIsKeptWithTheVersion) {
  const auto version = Load();
  ASSERT_TRUE(version.ok()) << version.status();
  ASSERT_EQ((*version)->footprints.size(), 2u);
  for (const DeviceFootprint& footprint : (*version)->footprints) {
    EXPECT_EQ(footprint.weights_bytes, 260'096) << footprint.device;
    // Inputs and outputs of the largest batch, at least.
    EXPECT_GE(footprint.workspace_bytes, 4 * (64 + 1000) * 4) << footprint.device;
    EXPECT_LT(footprint.workspace_bytes, 1'000'000) << footprint.device;
    EXPECT_GE(footprint.staging_bytes, 4 * (64 + 1000) * 4) << footprint.device;
  }
  EXPECT_THAT((*version)->provenance, HasSubstr("sim:0 weights 0.3 MB, workspace "));
}

TEST_F(TorchVersionLoaderTest, DeviceWithoutRoomIsLeftOut) {
  simdevice::LimitMemory(sim1_, 100'000);
  auto version = Load();
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_THAT(Devices(**version), ElementsAre("sim:0"));
  EXPECT_THAT(
      (*version)->provenance,
      HasSubstr("without a device: sim:1: 260096 bytes of memory are needed, 100000 of 100000"));
  version = absl::UnknownError("");
  simdevice::LimitMemory(sim0_, 50'000);
  const auto refused = Load();
  EXPECT_EQ(refused.status().code(), kExhausted);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("no device can take the model"));
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("sim:0: "));
}

TEST_F(TorchVersionLoaderTest, DeviceWithRoomForNoBatchIsLeftOutToo) {
  simdevice::LimitMemory(sim1_, simdevice::StatisticsOf(sim1_).live_bytes + 261'000);
  const auto version = Load();
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_THAT(Devices(**version), ElementsAre("sim:0"));
  EXPECT_THAT((*version)->provenance, HasSubstr("without a device: sim:1: "));
  request_.config.instances = {{1, Kind::kGpu, {0, 1}}};
  EXPECT_EQ(Load().status().code(), kExhausted);
}

// The network of the tests' weights, as a program with a constant of 100,000 bytes beside them.
models::Graph LinearWithConstant() {
  using models::ValueId;
  models::Graph graph;
  graph.class_name = "Made";
  graph.symbols.push_back({.name = "rows", .range = {.minimum = 1}});
  const auto rows = models::SizeExpression::OfSymbol(0);
  const auto value = [&graph](const char* name) { return graph.AddValue(name); };
  const ValueId x = value("x"), weight = value("weight"), bias = value("bias");
  const ValueId table = value("table"), sum = value("sum"), linear = value("linear");
  const ValueId y = value("y");
  graph.inputs.push_back({"x", x, at::kFloat, {rows, models::SizeExpression::Constant(64)}});
  graph.weights.push_back({"weight", weight, at::kFloat, {1000, 64}, true});
  graph.weights.push_back({"bias", bias, at::kFloat, {1000}, true});
  graph.constants.push_back({"table", table, at::ones({25'000})});
  const auto call = [&graph](const char* op, const char* overload,
                             std::vector<models::NamedArgument> arguments, ValueId result) {
    graph.nodes.push_back({op, op, overload, std::move(arguments), {{.values = {result}}}});
  };
  call("aten::sum", "", {{"", table}}, sum);
  call("aten::linear", "", {{"", x}, {"", weight}, {"", bias}}, linear);
  call("aten::add", "Tensor", {{"", linear}, {"", sum}}, y);
  graph.outputs.push_back({"y", y, at::kFloat, {rows, models::SizeExpression::Constant(1000)}});
  return graph;
}

TEST_F(TorchVersionLoaderTest, WhatTheNetworkHoldsBesideItsWeightsIsAdmittedAndCounted) {
  const auto program = models::ArchitectureOf("made", "", LinearWithConstant());
  ASSERT_TRUE(program.ok()) << program.status();
  const models::Architecture* const catalog[] = {program->get()};
  TorchVersionLoader loader{{sim0_}, {}, &health_, false, false, catalog};
  auto loaded = loader.Load(request_);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ASSERT_EQ(loaded->version->footprints.size(), 1u);
  EXPECT_EQ(loaded->version->footprints[0].weights_bytes, 260'096 + 100'000);
  loaded = absl::UnknownError("");
  // Enough for the weights and a replica.
  simdevice::LimitMemory(sim0_, 400'000);
  const auto refused = loader.Load(request_).status();
  EXPECT_EQ(refused.code(), kExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("(weights 360096, "));
}

TEST_F(TorchVersionLoaderTest, SecondVersionIsRefusedBeforeItTakesMemory) {
  request_.config.instances = {{1, Kind::kGpu, {0}}};
  const auto first = Load();
  ASSERT_TRUE(first.ok()) << first.status();
  const simdevice::Statistics before = simdevice::StatisticsOf(sim0_);
  // Room for the weights, not for what batches were seen to take.
  simdevice::LimitMemory(sim0_, before.live_bytes + 261'000);
  WriteWeights(2);
  const auto second = Load();
  EXPECT_EQ(second.status().code(), kExhausted);
  const std::string message(second.status().message());
  EXPECT_THAT(message, HasSubstr("sim:0: "));
  EXPECT_THAT(message, HasSubstr("(weights 260096, 1 replica of "));
  EXPECT_THAT(message, HasSubstr("261000 of"));
  EXPECT_THAT(message, HasSubstr("the version that serves keeps its memory"));
  EXPECT_EQ(simdevice::StatisticsOf(sim0_).allocations, before.allocations);
}

TEST_F(TorchVersionLoaderTest, CapIsComparedWithWhatIsMeasured) {
  request_.config.instances = {{1, Kind::kGpu, {0}}};
  request_.config.device_memory_cap_bytes = 260'096 + 1000;
  const int64_t live = LiveBytes();
  const auto refused = Load();
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("bytes were measured, device_memory_cap_bytes is 261096"));
  EXPECT_EQ(LiveBytes(), live);
  request_.config.device_memory_cap_bytes = 2'000'000;
  EXPECT_TRUE(Load().ok());
}

TEST_F(TorchVersionLoaderTest, LostDevicesAreNotUsed) {
  health_.ReportLost("sim:0", "an illegal address");
  const auto version = Load();
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_THAT(Devices(**version), ElementsAre("sim:1"));
  health_.ReportLost("sim:1", "an illegal address");
  EXPECT_EQ(Load().status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(TorchVersionLoaderTest, AllocationThatFailsAtAnyStepLeavesNothing) {
  request_.config.execution.precision = Precision::kBf16;
  const int64_t live = LiveBytes();
  const int64_t pinned = simdevice::PinnedBytes();
  int failures = 0;
  for (int64_t n = 1; n < 100; ++n) {
    simdevice::FailAllocation(sim0_, n);
    {
      const auto version = Load();
      if (!version.ok()) {
        ++failures;
        EXPECT_EQ(version.status().code(), kExhausted) << n << ": " << version.status();
      }
    }
    EXPECT_EQ(LiveBytes(), live) << n;
    EXPECT_EQ(simdevice::PinnedBytes(), pinned) << n;
    EXPECT_FALSE(simdevice::IsHostWaiting(sim0_)) << n;
  }
  EXPECT_GE(failures, 2);
}

TEST_F(TorchVersionLoaderTest, PinnedAllocationThatFailsAtAnyStepLeavesNothing) {
  const int64_t live = LiveBytes();
  const int64_t pinned = simdevice::PinnedBytes();
  for (int64_t n = 1; n < 30; ++n) {
    simdevice::FailPinnedAllocation(n);
    {
      const auto version = Load();
      if (!version.ok()) {
        EXPECT_EQ(version.status().code(), kExhausted) << version.status();
      }
    }
    EXPECT_EQ(LiveBytes(), live) << n;
    EXPECT_EQ(simdevice::PinnedBytes(), pinned) << n;
  }
}

TEST_F(TorchVersionLoaderTest, FaultAtAnyStepIsUnavailableAndLeavesNothing) {
  request_.config.instances = {{1, Kind::kGpu, {0}}};
  request_.config.execution.precision = Precision::kBf16;
  const int64_t live = LiveBytes();
  const int64_t pinned = simdevice::PinnedBytes();
  int failures = 0;
  bool loaded_at_last = false;
  for (int64_t n = 1; !loaded_at_last && n < 500; ++n) {
    DeviceHealth health;
    TorchVersionLoader loader({sim0_, sim1_}, {}, &health);
    simdevice::FailKernel(sim0_, n);
    {
      const auto version = loader.Load(request_);
      loaded_at_last = version.ok();
      if (!loaded_at_last) {
        ++failures;
        EXPECT_EQ(version.status().code(), absl::StatusCode::kUnavailable)
            << n << ": " << version.status();
        EXPECT_TRUE(health.LostBecause("sim:0").has_value()) << n;
      }
    }
    simdevice::Reset();
    EXPECT_EQ(LiveBytes(), live) << n;
    EXPECT_EQ(simdevice::PinnedBytes(), pinned) << n;
  }
  EXPECT_TRUE(loaded_at_last);
  EXPECT_GE(failures, 4);
}

TEST_F(TorchVersionLoaderTest, CacheGoesBackWhenAVersionIsDestroyed) {
  auto version = Load();
  ASSERT_TRUE(version.ok()) << version.status();
  const int64_t before = simdevice::StatisticsOf(sim0_).emptied_caches;
  version->reset();
  EXPECT_EQ(simdevice::StatisticsOf(sim0_).emptied_caches, before + 1);
}

TEST_F(TorchVersionLoaderTest, LoadsAtTheSameTimeAllSucceed) {
  std::vector<std::thread> threads;
  std::vector<absl::StatusOr<LoadedVersion>> versions(4);
  for (size_t i = 0; i < versions.size(); ++i) {
    threads.emplace_back([&, i] {
      LoadRequest request = request_;
      request.model = "m" + std::to_string(i);
      if (i % 2 == 0) request.config.instances = {{1, Kind::kGpu, {static_cast<int>(i / 2)}}};
      versions[i] = loader_.Load(request);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& version : versions) EXPECT_TRUE(version.ok()) << version.status();
}

TEST_F(TorchVersionLoaderTest, AnotherModelWithTheSameTensorsTakesOnlyWhatDiffers) {
  for (const Kind kind : {Kind::kGpu, Kind::kCpu}) {
    request_.model = "m";
    request_.weights_path = dir_.Path("model.safetensors");
    request_.config.instances = {{1, kind, {}}};
    if (kind == Kind::kGpu) request_.config.instances[0].gpus = {0};
    const auto first = Load();
    ASSERT_TRUE(first.ok()) << first.status();
    EXPECT_EQ((*first)->shared_bytes, 0);

    StateDict weights = RandomWeights(*net_, 1);
    for (StateEntry& entry : weights.tensors) {
      if (entry.name == "bias") entry.tensor = entry.tensor.add(1);
    }
    ASSERT_TRUE(WriteSafetensors(weights, dir_.Path("other.safetensors")).ok());
    request_.model = "n";
    request_.weights_path = dir_.Path("other.safetensors");
    // By its header it does not fit.
    simdevice::LimitMemory(sim0_, simdevice::StatisticsOf(sim0_).live_bytes + 200'000);
    const int64_t live = simdevice::StatisticsOf(sim0_).live_bytes;
    const auto second = Load();
    ASSERT_TRUE(second.ok()) << second.status();
    EXPECT_EQ((*second)->shared_bytes, 256'000);
    EXPECT_NE((*second)->weights_id, (*first)->weights_id);
    EXPECT_LT(simdevice::StatisticsOf(sim0_).live_bytes, live + 200'000);
    EXPECT_NE(Bytes(Run(**second, 0)[0]), Bytes(Run(**first, 0)[0]));
    simdevice::Reset();
  }
}

TEST_F(TorchVersionLoaderTest, RecentRequestsAreAnsweredAlikeOrTheFileIsRefused) {
  request_.config.proof.agreement_requests = 2;
  const auto live = Load();
  ASSERT_TRUE(live.ok()) << live.status();
  const HostTensor output = Run(**live, 0)[0];
  const auto request_with = [&](std::vector<float> input) {
    auto recent = std::make_shared<RecentRequest>();
    recent->version = 1;
    recent->inputs.push_back({DType::kFloat32, {1, 64}, std::vector<std::byte>(4 * 64)});
    std::memcpy(recent->inputs[0].bytes.data(), input.data(), 4 * 64);
    recent->outputs.push_back({DType::kFloat32,
                               output.shape,
                               {output.bytes.data(), output.bytes.data() + output.bytes.size()}});
    return recent;
  };
  std::vector<float> asked(64);
  for (size_t i = 0; i < 64; ++i) asked[i] = static_cast<float>(i) / 64;
  const auto good = request_with(asked);
  const auto wrong = request_with(std::vector<float>(64, 9));
  auto other = std::make_shared<RecentRequest>(*wrong);
  other->inputs[0].shape = {2, 32};

  // The last two count, and what the model does not take any more proves nothing.
  request_.recent = {wrong, good, other};
  const auto alike = Load();
  EXPECT_TRUE(alike.ok()) << alike.status();
  const int64_t bytes = LiveBytes();
  request_.recent = {good, wrong};
  const auto refused = Load();
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("recent request 2 of 2, as version 1 answered it: output '"));
  EXPECT_EQ(LiveBytes(), bytes);
  request_.config.proof.agreement_requests = 0;
  EXPECT_TRUE(Load().ok());
}

TEST_F(TorchVersionLoaderTest, WeightsThatAreNotFiniteAreRefusedUnlessAllowed) {
  StateDict weights = RandomWeights(*net_, 1);
  for (StateEntry& entry : weights.tensors) {
    if (entry.name == "bias") entry.tensor[17] = std::numeric_limits<float>::quiet_NaN();
  }
  ASSERT_TRUE(WriteSafetensors(weights, request_.weights_path).ok());
  for (const Kind kind : {Kind::kGpu, Kind::kCpu}) {
    request_.config.instances = {{1, kind, {}}};
    request_.config.proof.allow_non_finite = false;
    const auto refused = Load();
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument) << refused.status();
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("bias"));
    request_.config.proof.allow_non_finite = true;
    EXPECT_TRUE(Load().ok());
  }
}

TEST_F(TorchVersionLoaderTest, PixelsTakeThePlaceOfAnImage) {
  const models::Signature network = {{{"x", at::kFloat, {3, 224, 224}}}, {{"y", at::kFloat, {10}}}};
  ModelConfig config;
  config.inputs = {{"pixels", DType::kUInt8, {-1, 224, 3}}};
  config.execution.normalise = {
      Normalisation{ImageLayout::kNhwc, {1.0f, 1.0f, 1.0f}, {0.0f, 0.0f, 0.0f}}};
  const auto signature = SignatureOf(network, config);
  ASSERT_TRUE(signature.ok()) << signature.status();
  EXPECT_EQ(signature->served.inputs[0], (TensorSpec{"pixels", DType::kUInt8, {-1, 224, 3}}));
  EXPECT_EQ(signature->native.inputs[0].dims, (std::vector<int64_t>{224, 224, 3}));
  config.execution.normalise[0]->scale.push_back(1.0f);
  const auto channels = SignatureOf(network, config);
  EXPECT_THAT(std::string(channels.status().message()),
              HasSubstr("an image of 4 channels, got 'x'"));
  config.execution.normalise.clear();
  EXPECT_FALSE(SignatureOf(network, config).ok());
}

}  // namespace
}  // namespace sconce
