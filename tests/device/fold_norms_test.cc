// Batch norms that convolutions take over: the answers stay, and so does the memory that the
// weights take.
#include "server/loader/fold_norms.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>

#include <string>
#include <vector>

#include "server/device/upload/memory_meter.h"
#include "server/loader/torch_version_loader.h"
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
    request_.weights_path = WriteRandom(kResNet);
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
};

TEST_F(FoldNormsTest, AnswersStayWhatTheyAreOnEveryDevice) {
  const Loaded loaded = LoadFile(WriteRandom(kResNet), kResNet, {sim0_, kCpu});
  ASSERT_TRUE(loaded.weights.ok()) << loaded.weights.status();
  const std::vector<c10::Device> devices = {sim0_, kCpu};
  for (size_t i = 0; i < devices.size(); ++i) {
    models::Net& net = *loaded.nets[i];
    net.Eval(devices[i]);
    const at::Tensor before = Answer(net, devices[i]);
    EXPECT_EQ(FoldBatchNorms(net, loaded.on(i)), 20u);
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
    FoldBatchNorms(*loaded.nets[0], loaded.on(0));
    EXPECT_LE(LiveOn(sim0_) - before, unfolded);
    // The largest convolution, 512 x 512 x 3 x 3, in double precision and in its own.
    EXPECT_LE(meter.peak_bytes(), int64_t{512} * 512 * 9 * (8 + 4) + 100'000);
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
  FoldBatchNorms(*folded.nets[0], folded.on(0));
  ExpectEqual(*plain.nets[0], *Expected(path, kResNet), sim0_);
}

TEST_F(FoldNormsTest, ALoadFoldsAndSaysWhatThatChanges) {
  const auto plain = Serve({});
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_THAT((*plain)->provenance, Not(HasSubstr("folded")));
  ExecutionOptions folding;
  folding.fold_batch_norm = true;
  const auto folded = Serve(folding);
  ASSERT_TRUE(folded.ok()) << folded.status();
  EXPECT_THAT((*folded)->provenance,
              HasSubstr("sim:0 folded 20 batch norms, which changes outputs by at most "));
  EXPECT_EQ((*folded)->weights_id, (*plain)->weights_id);
}

TEST_F(FoldNormsTest, OtherNumbersAreComparedOnce) {
  ExecutionOptions half;
  half.precision = Precision::kBf16;
  half.channels_last = true;
  const auto first = Serve(half);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_THAT((*first)->provenance, HasSubstr("sim:0 differs from FP32 on the CPU by at most "));
  const auto second = Serve(half);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_THAT((*second)->provenance, Not(HasSubstr("differs from FP32")));
}

}  // namespace
}  // namespace sconce
