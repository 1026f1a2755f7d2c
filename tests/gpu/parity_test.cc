// That networks on the devices give the CPU's answers, as exactly as their precision allows.
#include <map>
#include <ostream>
#include <string>
#include <tuple>
#include <vector>

#include "tests/gpu/backend.h"
#include "tests/gpu/suite.h"

namespace sconce::gpu {
namespace {

struct PrecisionCase {
  std::string name;
  Precision precision;
  bool channels_last;
  // Of the largest value. FP32's is far below what rounding factors to TF32's 10 bits gives.
  double tolerance;
};

std::vector<PrecisionCase> Precisions() {
  return {{"Fp32", Precision::kFp32, false, 1e-4},
          {"Fp32ChannelsLast", Precision::kFp32, true, 1e-4},
          {"Tf32", Precision::kTf32, false, 2e-2},
          {"Fp16ChannelsLast", Precision::kFp16, true, 3e-2},
          {"Bf16ChannelsLast", Precision::kBf16, true, 1e-1}};
}

std::vector<Network> Networks() {
  std::vector<Network> networks = {
      SmallMlp(),
      {"linear", {{"in_features", "48"}, {"out_features", "16"}, {"bias", "true"}}, {48}},
      {"digits", {}, {1, 8, 8}},
      ResNet18()};
  if (IsSimulated()) return networks;  // on a processor the others take too long
  const std::map<std::string, std::string> ten = {{"num_classes", "10"}};
  networks.push_back({"resnet50", ten, {3, 64, 64}, true});
  networks.push_back({"vgg11_bn", ten, {3, 32, 32}, true});
  networks.push_back({"alexnet", ten, {3, 64, 64}, true});
  return networks;
}

void PrintTo(const PrecisionCase& c, std::ostream* out) { *out << c.name; }

class GpuParity : public GpuTest,
                  public testing::WithParamInterface<std::tuple<Network, PrecisionCase>> {};

TEST_P(GpuParity, DevicesGiveTheAnswersOfTheCpu) {
  const auto& [network, precision] = GetParam();
  const at::Tensor input = Normal(network.Shape(3), 7);
  const auto on_cpu = Load(network, c10::kCPU);
  ASSERT_NE(on_cpu, nullptr);
  const at::Tensor expected = Answer(*on_cpu->replicas.front(), input);
  LoadSettings settings;
  settings.execution.precision = precision.precision;
  settings.execution.channels_last = precision.channels_last;
  for (const c10::Device device : Devices()) {
    const auto version = Load(network, device, settings);
    ASSERT_NE(version, nullptr);
    const at::Tensor answer = Answer(*version->replicas.front(), input);
    EXPECT_EQ(answer.scalar_type(), at::kFloat);  // whatever is computed in
    EXPECT_LT(RelativeError(answer, expected), precision.tolerance) << device;
  }
}

INSTANTIATE_TEST_SUITE_P(
    , GpuParity, testing::Combine(testing::ValuesIn(Networks()), testing::ValuesIn(Precisions())),
    [](const auto& info) {
      return std::get<0>(info.param).architecture + "_" + std::get<1>(info.param).name;
    });

class GpuPrecision : public GpuTest {};

// LibTorch's switch is the process's; each model has to be computed as it is configured all the
// same.
TEST_F(GpuPrecision, ModelsSideBySideKeepTheirOwn) {
  const Network network = {
      "linear", {{"in_features", "1024"}, {"out_features", "1024"}, {"bias", "true"}}, {1024}};
  LoadSettings settings;
  settings.max_batch_size = 64;
  const auto exact = Load(network, device_, settings);
  settings.execution.precision = Precision::kTf32;
  const auto coarse = Load(network, device_, settings);
  const auto on_cpu = Load(network, c10::kCPU);
  ASSERT_TRUE(exact != nullptr && coarse != nullptr && on_cpu != nullptr);
  const at::Tensor input = Normal(network.Shape(64), 5);
  const at::Tensor expected = Answer(*on_cpu->replicas.front(), input);
  const at::Tensor first_exact = Answer(*exact->replicas.front(), input);
  const at::Tensor first_coarse = Answer(*coarse->replicas.front(), input);
  for (int i = 0; i < 20; ++i) {
    EXPECT_LT(RelativeError(Answer(*coarse->replicas.front(), input), first_coarse), 1e-6);
    EXPECT_LT(RelativeError(Answer(*exact->replicas.front(), input), first_exact), 1e-6);
  }
  EXPECT_LT(RelativeError(first_exact, expected), 1e-5);
  if (HasTf32(device_)) {
    EXPECT_GT(RelativeError(first_coarse, expected), 1e-5);
    EXPECT_LT(RelativeError(first_coarse, expected), 1e-2);
  }
}

}  // namespace
}  // namespace sconce::gpu
