// That networks give on the simulated devices what they give on the CPU, bit for bit.
#include <ATen/DeviceAccelerator.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>
#include <torch/nn.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/device/sim_test.h"

namespace sconce {
namespace {

namespace nn = torch::nn;

struct LinearNet : nn::Module {
  LinearNet() {
    first = register_module("first", nn::Linear(20, 30));
    second = register_module("second", nn::Linear(30, 7));
  }
  at::Tensor forward(const at::Tensor& x) { return second(at::relu(first(x))).softmax(-1); }
  nn::Linear first = nullptr, second = nullptr;
};

struct ResidualNet : nn::Module {
  ResidualNet() {
    const auto conv = [](int in, int out, int stride) {
      return nn::Conv2d(nn::Conv2dOptions(in, out, 3).stride(stride).padding(1).bias(false));
    };
    stem = register_module("stem", conv(3, 16, 2));
    norm = register_module("norm", nn::BatchNorm2d(16));
    pool = register_module("pool", nn::MaxPool2d(nn::MaxPool2dOptions(3).stride(2).padding(1)));
    inner = register_module("inner", conv(16, 16, 1));
    inner_norm = register_module("inner_norm", nn::BatchNorm2d(16));
    fc = register_module("fc", nn::Linear(16, 10));
  }
  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor y = pool(at::relu(norm(stem(x))));
    at::Tensor z = at::relu(inner_norm(inner(y)));
    z += y;
    return fc(at::adaptive_avg_pool2d(z.relu_(), {1, 1}).flatten(1));
  }
  nn::Conv2d stem = nullptr, inner = nullptr;
  nn::BatchNorm2d norm = nullptr, inner_norm = nullptr;
  nn::MaxPool2d pool = nullptr;
  nn::Linear fc = nullptr;
};

struct TransformerBlock : nn::Module {
  TransformerBlock() {
    norm = register_module("norm", nn::LayerNorm(nn::LayerNormOptions({32})));
    qkv = register_module("qkv", nn::Linear(32, 96));
    out = register_module("out", nn::Linear(32, 32));
    up = register_module("up", nn::Linear(32, 128));
    down = register_module("down", nn::Linear(128, 32));
  }
  at::Tensor forward(const at::Tensor& x) {
    const auto parts = qkv(norm(x)).chunk(3, -1);
    std::vector<at::Tensor> heads;
    for (const at::Tensor& part : parts) {
      heads.push_back(part.view({x.size(0), x.size(1), 4, 8}).transpose(1, 2));
    }
    const at::Tensor mixed = at::scaled_dot_product_attention(heads[0], heads[1], heads[2]);
    const at::Tensor y = x + out(mixed.transpose(1, 2).reshape(x.sizes()));
    return y + down(at::gelu(up(y)));
  }
  nn::LayerNorm norm = nullptr;
  nn::Linear qkv = nullptr, out = nullptr, up = nullptr, down = nullptr;
};

struct RecurrentNet : nn::Module {
  RecurrentNet() {
    lstm = register_module("lstm", nn::LSTM(nn::LSTMOptions(12, 16).num_layers(2)));
    gru = register_module("gru", nn::GRU(nn::GRUOptions(16, 8).batch_first(true)));
  }
  at::Tensor forward(const at::Tensor& x) {
    return std::get<0>(gru->forward(std::get<0>(lstm->forward(x))));
  }
  nn::LSTM lstm = nullptr;
  nn::GRU gru = nullptr;
};

struct NetworkCase {
  std::string name;
  std::vector<int64_t> input;
  // A new network, and what runs it.
  std::function<
      std::pair<std::shared_ptr<nn::Module>, std::function<at::Tensor(const at::Tensor&)>>()>
      make;
};

template <typename Net>
NetworkCase Case(std::string name, std::vector<int64_t> input) {
  return {
      std::move(name), std::move(input), [] {
        auto net = std::make_shared<Net>();
        net->eval();
        return std::pair<std::shared_ptr<nn::Module>, std::function<at::Tensor(const at::Tensor&)>>(
            net, [raw = net.get()](const at::Tensor& x) { return raw->forward(x); });
      }};
}

class SimNetworks : public SimTest, public testing::WithParamInterface<NetworkCase> {};

TEST_P(SimNetworks, GiveTheAnswersOfTheCpuBitForBit) {
  const auto [net, forward] = GetParam().make();
  const at::Tensor x = at::randn(GetParam().input);
  at::Tensor expected;
  {
    const c10::InferenceMode inference_mode;
    expected = forward(x);
  }
  for (const c10::Device device : {sim0_, sim1_}) {
    net->to(device);
    // The way from one device to another is not waited for, and is not on the stream used here.
    at::accelerator::synchronizeDevice(device.index());
    const c10::Stream stream = simdevice::NewStream(device);
    {
      const c10::InferenceMode inference_mode;
      const c10::StreamGuard on(stream);
      const at::Tensor answer = forward(x.to(device));
      EXPECT_EQ(answer.device(), device);
      EXPECT_TRUE(answer.is_inference());
      EXPECT_TRUE(at::equal(answer.to(at::kCPU), expected)) << device;
    }
    // As a normal tensor, too.
    const torch::NoGradGuard no_grad;
    const at::Tensor answer = forward(x.to(device));
    EXPECT_FALSE(answer.is_inference());
    EXPECT_TRUE(at::equal(answer.to(at::kCPU), expected)) << device;
  }
}

INSTANTIATE_TEST_SUITE_P(, SimNetworks,
                         testing::Values(Case<LinearNet>("Linear", {5, 20}),
                                         Case<ResidualNet>("Residual", {2, 3, 40, 40}),
                                         Case<TransformerBlock>("Transformer", {2, 9, 32}),
                                         Case<RecurrentNet>("Recurrent", {6, 3, 12})),
                         [](const auto& info) { return info.param.name; });

class SimTensors : public SimTest {};

TEST_F(SimTensors, OperatorsThatDependOnValuesWaitForTheirStream) {
  const at::Tensor x = at::arange(10).to(sim0_);
  EXPECT_TRUE(at::equal((x > 6).nonzero().flatten().to(at::kCPU), at::tensor({7, 8, 9})));
  EXPECT_TRUE(at::equal(x.masked_select(x < 2).to(at::kCPU), at::tensor({0, 1})));
  EXPECT_EQ(x.sum().item<int64_t>(), 45);
  EXPECT_TRUE(at::equal(x, x.clone()));
}

TEST_F(SimTensors, ViewsShareTheirMemory) {
  const at::Tensor x = at::zeros({4, 6}).to(sim0_);
  x.transpose(0, 1).select(0, 2).fill_(1);
  x.view({2, 12}).narrow(1, 0, 1).add_(2);
  const at::Tensor expected = at::zeros({4, 6});
  expected.transpose(0, 1).select(0, 2).fill_(1);
  expected.view({2, 12}).narrow(1, 0, 1).add_(2);
  EXPECT_TRUE(at::equal(x.to(at::kCPU), expected));
  EXPECT_TRUE(x.view({24}).is_alias_of(x));
}

TEST_F(SimTensors, ResultsAreWrittenWhereAskedAndTheRoomIsMade) {
  const at::Tensor x = at::ones({3, 4}).to(sim0_);
  at::Tensor out = at::empty({0}, x.options());
  at::add_out(out, x, x);
  EXPECT_TRUE(at::equal(out.to(at::kCPU), at::full({3, 4}, 2.f)));
}

TEST_F(SimTensors, TypesAndLayoutsAreConvertedOnTheWay) {
  const at::Tensor x = at::randn({2, 3, 4, 5});
  const at::Tensor there =
      x.to(at::TensorOptions(sim0_).dtype(at::kHalf), false, false, at::MemoryFormat::ChannelsLast);
  EXPECT_EQ(there.strides(), x.contiguous(at::MemoryFormat::ChannelsLast).strides());
  EXPECT_TRUE(at::equal(there.to(at::kCPU), x.to(at::kHalf)));
  EXPECT_TRUE(at::equal(there.to(at::TensorOptions(at::kCPU).dtype(at::kFloat)),
                        x.to(at::kHalf).to(at::kFloat)));
  EXPECT_TRUE(at::equal(x.transpose(0, 3).to(sim1_).to(sim0_).to(at::kCPU), x.transpose(0, 3)));
}

}  // namespace
}  // namespace sconce
