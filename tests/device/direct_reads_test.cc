// Weights that devices read from their files by themselves: the same as those that come through the
// host, which takes over where that fails.
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "models/catalog.h"
#include "server/loader/torch_version_loader.h"
#include "tests/device/sim_test.h"
#include "tests/support/random_weights.h"
#include "tests/support/simdevice/accelerator.h"
#include "tests/support/temp_dir.h"

namespace sconce {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr int64_t kInputs = 3000;
// 12 MB, which take two portions, and a bias that shares none.
constexpr int64_t kOutputs = 1000;

class DirectReadsTest : public SimTest {
 protected:
  DirectReadsTest() {
    for (const models::Architecture* architecture : models::Catalog()) {
      if (architecture->name() != "linear") continue;
      auto net = architecture->Create(
          {{"in_features", kInputs}, {"out_features", kOutputs}, {"bias", true}});
      if (net.ok()) net_ = *std::move(net);
    }
    request_.model = "m";
    request_.weights_path = dir_.Path("model.safetensors");
    request_.config.max_batch_size = 1;
    const absl::Status written = WriteSafetensors(RandomWeights(*net_, 1), request_.weights_path);
    EXPECT_TRUE(written.ok()) << written;
  }
  ~DirectReadsTest() override { simdevice::FailDirectRead(0); }

  absl::StatusOr<std::unique_ptr<ModelVersion>> Load(bool direct_storage,
                                                     const CheckpointOptions& options = {}) {
    TorchVersionLoader loader({sim0_, sim1_}, options, &health_, direct_storage);
    auto loaded = loader.Load(request_);
    if (!loaded.ok()) return loaded.status();
    return std::move(loaded->version);
  }

  static std::string Answer(const ModelVersion& version, size_t replica) {
    auto staged = version.replicas[replica]->Stage({4 * kInputs});
    EXPECT_TRUE(staged.ok()) << staged.status();
    HostTensor& input = staged->front();
    for (int64_t i = 0; i < kInputs; ++i) {
      const float value = static_cast<float>(i % 7) / 8;
      std::memcpy(input.bytes.data() + 4 * i, &value, 4);
    }
    input.dtype = DType::kFloat32;
    input.shape = {1, kInputs};
    BatchInput batch;
    batch.inputs.push_back(std::move(input));
    const auto outputs = version.replicas[replica]->Run(std::move(batch));
    EXPECT_TRUE(outputs.ok()) << outputs.status();
    const HostTensor& output = outputs->front();
    return {reinterpret_cast<const char*>(output.bytes.data()), output.bytes.size()};
  }

  // That both devices have the weights that come through the host.
  void ExpectSameAsThroughTheHost(const ModelVersion& version) {
    const auto expected = Load(false);
    ASSERT_TRUE(expected.ok()) << expected.status();
    EXPECT_EQ(version.weights_id, (*expected)->weights_id);
    ASSERT_EQ(version.replicas.size(), 2u);
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(Answer(version, i), Answer(**expected, 0)) << version.replicas[i]->device();
    }
  }

  TempDir dir_;
  std::unique_ptr<models::Net> net_;
  DeviceHealth health_;
  LoadRequest request_;
};

TEST_F(DirectReadsTest, NothingIsReadDirectlyUnlessAskedFor) {
  const int64_t before = simdevice::DirectReads(sim0_);
  const auto version = Load(false);
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_EQ(simdevice::DirectReads(sim0_), before);
  EXPECT_THAT((*version)->provenance, Not(HasSubstr("by itself")));
}

TEST_F(DirectReadsTest, OneDeviceReadsAndAllHaveTheSame) {
  const int64_t before[] = {simdevice::DirectReads(sim0_), simdevice::DirectReads(sim1_)};
  const auto version = Load(true);
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_EQ(simdevice::DirectReads(sim0_), before[0] + 3);
  EXPECT_EQ(simdevice::DirectReads(sim1_), before[1]);
  EXPECT_THAT((*version)->provenance, HasSubstr("; sim:0 read 12.0 MB from the files by itself; "));
  ExpectSameAsThroughTheHost(**version);
}

TEST_F(DirectReadsTest, HostTakesOverWhereAReadFails) {
  for (int64_t n = 1; n <= 3; ++n) {
    SCOPED_TRACE(n);
    simdevice::FailDirectRead(n);
    const auto version = Load(true);
    ASSERT_TRUE(version.ok()) << version.status();
    EXPECT_THAT((*version)->provenance,
                HasSubstr("by itself, no more: sim error: the direct read failed; "));
    ExpectSameAsThroughTheHost(**version);
  }
}

TEST_F(DirectReadsTest, WhatIsCastOrVerifiedComesThroughTheHost) {
  const int64_t before = simdevice::DirectReads(sim0_);
  const auto plain = Load(false);
  ASSERT_TRUE(plain.ok()) << plain.status();
  request_.config.execution.precision = Precision::kBf16;
  const auto cast = Load(true);
  ASSERT_TRUE(cast.ok()) << cast.status();
  EXPECT_EQ((*cast)->weights_id, (*plain)->weights_id);
  EXPECT_THAT((*cast)->provenance,
              HasSubstr("sim:0 read 0.0 MB from the files by itself: no tensor is wanted"));

  request_.config.execution.precision = Precision::kFp32;
  // Not the file's, which a device would not notice.
  dir_.Write("model.safetensors.sha256", std::string(64, '0') + "  model.safetensors\n");
  const auto verified = Load(true, {.verify_sha256 = true});
  EXPECT_EQ(verified.status().code(), absl::StatusCode::kDataLoss) << verified.status();
  EXPECT_EQ(simdevice::DirectReads(sim0_), before);
}

TEST_F(DirectReadsTest, FaultAtAnyStepLeavesNothing) {
  const auto live_bytes = [this] {
    return simdevice::StatisticsOf(sim0_).live_bytes + simdevice::StatisticsOf(sim1_).live_bytes;
  };
  const int64_t live = live_bytes();
  const int64_t pinned = simdevice::PinnedBytes();
  bool loaded_at_last = false;
  int64_t failures = 0;
  for (int64_t n = 1; !loaded_at_last; ++n) {
    simdevice::FailKernel(sim0_, n);
    DeviceHealth health;
    TorchVersionLoader loader({sim0_}, {}, &health, true);
    {
      const auto version = loader.Load(request_);
      loaded_at_last = version.ok();
      if (!loaded_at_last) {
        ++failures;
        EXPECT_EQ(version.status().code(), absl::StatusCode::kUnavailable) << version.status();
        EXPECT_TRUE(health.LostBecause("sim:0").has_value());
      }
    }
    simdevice::Reset();
    EXPECT_EQ(live_bytes(), live) << n;
    EXPECT_EQ(simdevice::PinnedBytes(), pinned) << n;
  }
  EXPECT_GE(failures, 4);  // three copies back, and a batch
}

}  // namespace
}  // namespace sconce
