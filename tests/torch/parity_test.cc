// Weights that Python saved give, in the network we detect, the very bits Python computed.
#include <ATen/Parallel.h>
#include <ATen/ops/equal.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "tests/torch/fixtures.h"

namespace sconce {
namespace {

struct ParityCase {
  std::string weights;  // file
  std::string io;       // NAME.io.safetensors
  std::string detected;
  models::Configured configured = {};
};

models::Configured Activation(const std::string& name) { return {"mlp", {{"activation", name}}}; }

std::vector<ParityCase> ParityCases() {
  const std::string mlp = R"(mlp(bias=true, features=[20, 30, 30, 7], layers="0,2,5"))";
  const auto mlp_with = [](const std::string& activation) {
    return "mlp(activation=\"" + activation +
           R"(", bias=true, features=[20, 30, 30, 7], layers="0,2,5"))";
  };
  const std::string linear = "linear(bias=true, in_features=10, out_features=1)";
  return {
      {"savedModel_weights.pth", "savedModel_weights", "resnet50(num_classes=10)"},
      {"savedModel_weights.safetensors", "savedModel_weights", "resnet50(num_classes=10)"},
      {"resnet18.pth", "resnet18", "resnet18(num_classes=1000)"},
      {"resnet18.safetensors", "resnet18", "resnet18(num_classes=1000)"},
      {"resnet18_wrapped.pth", "resnet18", "resnet18(num_classes=1000)"},
      {"vgg16.pth", "vgg16", "vgg16(num_classes=1000)"},
      {"vgg16.safetensors", "vgg16", "vgg16(num_classes=1000)"},
      {"vgg11_bn.pth", "vgg11_bn", "vgg11_bn(num_classes=1000)"},
      {"alexnet.pth", "alexnet", "alexnet(num_classes=1000)"},
      {"resnext50_32x4d.pth", "resnext50_32x4d", "resnext50_32x4d(num_classes=1000)"},
      {"wide_resnet50_2.pth", "wide_resnet50_2", "wide_resnet50_2(num_classes=1000)"},
      {"linear.pth", "linear", linear},
      {"general_checkpoint.pth", "general_checkpoint", linear},
      {"general_checkpoint.safetensors", "general_checkpoint", linear},
      {"linear_fc.pth", "linear_fc",
       R"(linear(bias=false, in_features=5, out_features=4, prefix="fc."))"},
      {"digits.pth", "digits", "digits()"},
      {"digits.safetensors", "digits", "digits()"},
      {"mlp.pth", "mlp", mlp},
      {"mlp.safetensors", "mlp", mlp},
      {"mlp_gelu.pth", "mlp_gelu", mlp_with("gelu"), Activation("gelu")},
      {"mlp_tanh.pth", "mlp_tanh", mlp_with("tanh"), Activation("tanh")},
      {"mlp_sigmoid.pth", "mlp_sigmoid", mlp_with("sigmoid"), Activation("sigmoid")},
      {"mlp_silu.pth", "mlp_silu", mlp_with("silu"), Activation("silu")},
      {"mlp_none.pth", "mlp_none", mlp_with("none"), Activation("none")},
      {"mlp_net.pth", "mlp_net",
       R"(mlp(bias=true, features=[20, 30, 30, 7], layers="net.0,net.2,net.5"))"},
      {"mlp_fc.pth", "mlp_fc", R"(mlp(bias=true, features=[6, 5, 4, 3], layers="fc1,fc2,fc3"))"},
      {"mlp_mixed.pth", "mlp_mixed", R"(mlp(bias=true, features=[6, 5, 4, 3], layers="0,1,3"))"},
  };
}

class Parity : public testing::TestWithParam<ParityCase> {};

TEST_P(Parity, AnswersAreThoseOfPythonBitForBit) {
  const Loaded loaded = LoadFixture(GetParam().weights, GetParam().configured);
  ASSERT_NE(loaded.net, nullptr);
  EXPECT_EQ(models::ToString(loaded.detection.architecture->name(), loaded.detection.parameters),
            GetParam().detected);

  const StateDict io = ReadFixture(GetParam().io + ".io.safetensors");
  const c10::InferenceMode inference_mode;
  const std::vector<at::Tensor> outputs = loaded.net->Forward({TensorNamed(io, "input")});
  ASSERT_EQ(outputs.size(), 1u);
  EXPECT_TRUE(at::equal(outputs[0], TensorNamed(io, "output")));

  const models::Signature& signature = loaded.net->signature();
  ASSERT_EQ(signature.outputs.size(), 1u);
  EXPECT_EQ(outputs[0].sizes().slice(1).vec(), signature.outputs[0].dims);
}

INSTANTIATE_TEST_SUITE_P(Networks, Parity, testing::ValuesIn(ParityCases()), [](const auto& info) {
  std::string name = info.param.weights;
  for (char& c : name) {
    if (c == '.') c = '_';
  }
  return name;
});

TEST(Forward, IsSafeFromSeveralThreads) {
  const Loaded loaded = LoadFixture("resnet18.pth");
  ASSERT_NE(loaded.net, nullptr);
  const StateDict io = ReadFixture("resnet18.io.safetensors");
  const at::Tensor input = TensorNamed(io, "input");
  const at::Tensor expected = TensorNamed(io, "output");
  std::vector<int> right(3, 0);
  std::vector<std::thread> threads;
  for (int& count : right) {
    threads.emplace_back([&] {
      at::set_num_threads(1);
      const c10::InferenceMode inference_mode;
      for (int i = 0; i < 5; ++i) {
        count += at::equal(loaded.net->Forward({input})[0], expected) ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, std::vector<int>(3, 5));
}

TEST(Forward, InputTakesTheConfiguredImageSize) {
  const Loaded loaded = LoadFixture("resnet18.pth", {"resnet18", {{"image_size", "64"}}});
  ASSERT_NE(loaded.net, nullptr);
  EXPECT_EQ(loaded.net->signature().inputs[0].dims, (std::vector<int64_t>{3, 64, 64}));
}

}  // namespace
}  // namespace sconce
