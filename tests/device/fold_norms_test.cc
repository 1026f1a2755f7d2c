// Batch norms that convolutions take over: the answers stay, and so does the memory that the
// weights take.
#include "server/loader/fold_norms.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/rsqrt.h>
#include <c10/core/InferenceMode.h>

#include <string>
#include <vector>

#include "server/device/upload/memory_meter.h"
#include "server/loader/torch_version_loader.h"
#include "server/loader/unprepared.h"
#include "tests/device/weights_fixture.h"

namespace sconce {
namespace {

using testing::HasSubstr;
using testing::Not;

class FoldNormsTest : public WeightsTest {
 protected:
  at::Tensor Answer(const models::Net& net, c10::Device device) const {
    const c10::InferenceMode inference;
    return net.Forward({image_.to(device)})[0].cpu();
  }
  // Such as a net and the one that was made of it.
  static void ExpectNear(const at::Tensor& answer, const at::Tensor& expected, double tolerance) {
    const double largest = expected.abs().max().item<double>();
    EXPECT_LT(answer.sub(expected).abs().max().item<double>(), tolerance * largest);
  }

  absl::StatusOr<std::unique_ptr<ModelVersion>> Serve(const ExecutionOptions& execution) {
    request_.model = "m";
    StateDict weights = RandomWeights(*NewNet(kResNet), ++seed_);
    request_.weights_path = Write(weights);
    request_.config.architecture = kResNet.name;
    request_.config.architecture_parameters = {{"image_size", "32"}};
    request_.config.max_batch_size = 2;
    request_.config.execution = execution;
    auto loaded = loader_.Load(request_);
    if (!loaded.ok()) return loaded.status();
    return std::move(loaded->version);
  }

  const at::Tensor image_ = at::randn({2, 3, 32, 32});
  TorchVersionLoader loader_{{sim0_}, {}, &health_};
  LoadRequest request_;
  uint64_t seed_ = 0;
};

TEST_F(FoldNormsTest, AnswersStayWhatTheyAreOnEveryDevice) {
  const Loaded loaded = LoadFile(WriteRandom(kResNet), kResNet, {sim0_, kCpu});
  ASSERT_TRUE(loaded.weights.ok()) << loaded.weights.status();
  const std::vector<c10::Device> devices = {sim0_, kCpu};
  for (size_t i = 0; i < devices.size(); ++i) {
    models::Net& net = *loaded.nets[i];
    net.Eval(devices[i]);
    const at::Tensor before = Answer(net, devices[i]);
    EXPECT_EQ(net.NormPairs().size(), 20u);
    FoldBatchNorms(net, loaded.on(i), std::nullopt);
    const at::Tensor after = Answer(net, devices[i]);
    ExpectNear(after, before, 1e-5);
    EXPECT_FALSE(at::equal(after, before));  // something was folded
  }
}

TEST_F(FoldNormsTest, MemoryIsThatOfOneSetOfWeights) {
  const int64_t before = LiveOn(sim0_);
  {
    const Loaded loaded = LoadFile(WriteRandom(kResNet), kResNet, {sim0_});
    ASSERT_TRUE(loaded.weights.ok()) << loaded.weights.status();
    loaded.nets[0]->Eval(sim0_);
    const int64_t unfolded = LiveOn(sim0_) - before;
    const MemoryMeter meter(sim0_);
    const FoldingMemory expected = MemoryToFold(*loaded.nets[0], std::nullopt);
    FoldBatchNorms(*loaded.nets[0], loaded.on(0), std::nullopt);
    EXPECT_LE(LiveOn(sim0_) - before, unfolded);
    // As admission has it: what is left of the weights, and what was made of them.
    EXPECT_EQ(LiveOn(sim0_) - before, loaded.on(0).size_bytes() + expected.made_bytes);
    // The largest convolution, 512 x 512 x 3 x 3, in double precision and in its own.
    EXPECT_LE(meter.peak_bytes(), expected.scratch_bytes + 100'000);
    EXPECT_LE(expected.scratch_bytes, int64_t{512} * 512 * 9 * (8 + 4) + 100'000);
    // Whoever wants weights of these must load them anew.
    EXPECT_ANY_THROW(loaded.on(0).AssignTo(*NewNet(kResNet)));
  }
  EXPECT_EQ(LiveOn(sim0_), before);
}

TEST_F(FoldNormsTest, WeightsOfOtherVersionsAreLeftAlone) {
  const std::string path = WriteRandom(kResNet);
  const Loaded plain = LoadFile(path, kResNet, {sim0_});
  const Loaded folded = LoadFile(path, kResNet, {sim0_});
  ASSERT_TRUE(plain.weights.ok() && folded.weights.ok());
  EXPECT_EQ(folded.on(0).shared_bytes(), folded.on(0).size_bytes());
  folded.nets[0]->Eval(sim0_);
  FoldBatchNorms(*folded.nets[0], folded.on(0), std::nullopt);
  ExpectEqual(*plain.nets[0], *Expected(path, kResNet), sim0_);
}

TEST_F(FoldNormsTest, ALoadFoldsAndSaysWhatThatChanges) {
  const auto plain = Serve({});
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_THAT((*plain)->provenance, Not(HasSubstr("folded")));
  ExecutionOptions folding;
  folding.fold_batch_norm = true;
  seed_ = 0;
  const auto folded = Serve(folding);
  ASSERT_TRUE(folded.ok()) << folded.status();
  EXPECT_THAT((*folded)->provenance,
              HasSubstr("sim:0 folded 20 batch norms, which changes outputs by at most "));
  ASSERT_EQ((*folded)->deviations.size(), 1u);
  EXPECT_GT((*folded)->deviations[0].absolute, 0);
  EXPECT_EQ((*folded)->weights_id, (*plain)->weights_id);
}

TEST_F(FoldNormsTest, WhatIsCastIsRoundedOnceAfterFolding) {
  const std::string path = WriteRandom(kResNet);
  const Loaded loaded = LoadFile(path, kResNet, {sim0_});
  ASSERT_TRUE(loaded.weights.ok()) << loaded.weights.status();
  models::Net& net = *loaded.nets[0];
  net.Eval(sim0_);
  const models::NormPair pair = net.NormPairs().front();
  FoldBatchNorms(net, loaded.on(0), at::kBFloat16);
  const std::vector<models::NamedTensor> of_file = Expected(path, kResNet)->State();
  const auto number = [&](size_t i) { return of_file[i].tensor.to(at::kDouble); };
  const at::Tensor scale =
      number(*pair.scale).mul(at::rsqrt(number(pair.variance).add(pair.epsilon)));
  const at::Tensor expected = number(pair.weight).mul(scale.view({-1, 1, 1, 1})).to(at::kBFloat16);
  EXPECT_TRUE(at::equal(net.State()[pair.weight].tensor.cpu(), expected));
}

TEST_F(FoldNormsTest, ALoadFoldsBeforeItCasts) {
  ExecutionOptions execution;
  execution.precision = Precision::kBf16;
  const auto cast = Serve(execution);
  ASSERT_TRUE(cast.ok()) << cast.status();
  execution.fold_batch_norm = true;
  seed_ = 0;
  const auto folded = Serve(execution);
  ASSERT_TRUE(folded.ok()) << folded.status();
  EXPECT_THAT((*folded)->provenance, HasSubstr("sim:0 folded 20 batch norms; "));
  ASSERT_EQ((*folded)->deviations.size(), 1u);
  EXPECT_GT((*folded)->deviations[0].absolute, 0);
  EXPECT_LT((*folded)->deviations[0].relative, 0.1);
  // Batch norms are gone, and what is left takes two bytes a number.
  EXPECT_LE((*folded)->weights_bytes, (*cast)->weights_bytes);
  EXPECT_EQ((*folded)->footprints[0].weights_bytes, (*folded)->weights_bytes);
}

TEST_F(FoldNormsTest, EachLoadIsComparedWithItsOwnWeightsUnprepared) {
  ExecutionOptions half;
  half.precision = Precision::kBf16;
  half.channels_last = true;
  std::vector<PreparedDeviation> deviations;
  for (int load = 0; load < 2; ++load) {
    const auto version = Serve(half);
    ASSERT_TRUE(version.ok()) << version.status();
    EXPECT_THAT((*version)->provenance,
                HasSubstr("sim:0 differs from FP32 on the CPU by at most "));
    ASSERT_EQ((*version)->deviations.size(), 1u);
    deviations.push_back((*version)->deviations[0]);
    EXPECT_EQ(deviations.back().device, "sim:0");
    EXPECT_EQ(deviations.back().not_measured, "");
    EXPECT_GT(deviations.back().absolute, 0);
    EXPECT_LT(deviations.back().relative, 0.1);
  }
  EXPECT_NE(deviations[0].absolute, deviations[1].absolute);
}

TEST_F(FoldNormsTest, WhatIsNotPreparedIsNotCompared) {
  const auto version = Serve({});
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_TRUE((*version)->deviations.empty());
}

TEST_F(FoldNormsTest, WithoutMemoryForTheWeightsUnpreparedNothingIsCompared) {
  const auto plain = Serve({});
  ASSERT_TRUE(plain.ok()) << plain.status();
  LoaderParts parts;
  parts.catalog = models::Catalog();
  auto structure = CheckStructure(parts, request_);
  ASSERT_TRUE(structure.ok()) << structure.status();
  structure->signature.execution.channels_last = true;
  dir_.Write("proc/meminfo", "MemTotal: 200000 kB\nMemAvailable: 40000 kB\n");
  HostMemoryBudget too_little(dir_.path());
  const auto unanswered = AnswerUnprepared(*structure, true, too_little, parts.lanes.get());
  ASSERT_TRUE(unanswered.has_value());
  EXPECT_TRUE(absl::IsResourceExhausted(unanswered->answers.status()));
  CompareReplicas(*unanswered, **plain);
  ASSERT_EQ((*plain)->deviations.size(), 1u);
  EXPECT_THAT((*plain)->deviations[0].not_measured, HasSubstr("of the host's memory"));
  EXPECT_THAT((*plain)->provenance, HasSubstr("; sim:0 was not compared with FP32: "));
  // With enough, the same weights answer the same, but for what devices round otherwise.
  HostMemoryBudget enough;
  const auto answered = AnswerUnprepared(*structure, true, enough, parts.lanes.get());
  ASSERT_TRUE(answered.has_value());
  ASSERT_TRUE(answered->answers.ok()) << answered->answers.status();
  CompareReplicas(*answered, **plain);
  EXPECT_LT((*plain)->deviations[1].relative, 1e-5);
}

TEST_F(FoldNormsTest, AdmissionCountsWhatFoldingTakes) {
  ExecutionOptions folding;
  folding.fold_batch_norm = true;
  ASSERT_TRUE(Serve(folding).ok());
  // For the weights there is room, and for the batches, but not for the largest convolution too.
  LoaderParts parts;
  parts.catalog = models::Catalog();
  const auto structure = CheckStructure(parts, request_);
  ASSERT_TRUE(structure.ok()) << structure.status();
  EXPECT_GT(structure->folding.scratch_bytes, int64_t{512} * 512 * 9 * 8);
  simdevice::LimitMemory(
      sim0_, LiveOn(sim0_) + structure->plan.weights_bytes + structure->folding.scratch_bytes / 2);
  bool admitted = false;
  request_.on_step = [&](VersionState state, Duration) {
    admitted = admitted || state == VersionState::kAdmitted;
  };
  request_.config.instances = {{.kind = InstanceGroup::Kind::kGpu, .gpus = {0}}};
  const auto refused = loader_.Load(request_);
  simdevice::LimitMemory(sim0_, int64_t{1} << 30);
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status())) << refused.status();
  EXPECT_FALSE(admitted);
}

}  // namespace
}  // namespace sconce
