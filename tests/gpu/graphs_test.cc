// That replaying a captured graph gives what running its work gives, whatever else the device is
// used for meanwhile.
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "server/device/accelerator.h"
#include "server/device/execution/torch_replica.h"
#include "tests/gpu/backend.h"
#include "tests/gpu/suite.h"

namespace sconce::gpu {
namespace {

class GpuGraphs : public GpuTest {
 protected:
  const Accelerator& accelerator() const { return *FindAccelerator(device_.type()); }

  c10::Stream NewStream() const {
    return c10::impl::VirtualGuardImpl(device_.type()).getStreamFromGlobalPool(device_);
  }

  at::Tensor Filled(float value) const {
    return at::full({1000}, value, at::TensorOptions().device(device_));
  }
};

TEST_F(GpuGraphs, ARepeatedGraphReadsItsMemoryAnew) {
  ASSERT_NE(FindAccelerator(device_.type()), nullptr);
  const c10::Stream stream = NewStream();
  const c10::StreamGuard on(stream);
  at::Tensor in = Filled(1), out = Filled(0);
  const auto body = [&] { out.copy_(in.mul(2).add(1)); };
  body();  // what is set up at a first run cannot be captured
  auto graph = accelerator().Capture(device_, body, nullptr);
  ASSERT_TRUE(graph.ok()) << graph.status();
  for (const float value : {3.f, 4.f, 5.f}) {
    in.fill_(value);
    (*graph)->Replay();
    EXPECT_TRUE(at::equal(out.to(at::kCPU), at::full({1000}, 2 * value + 1)));
  }
  stream.synchronize();
}

TEST_F(GpuGraphs, WhatCannotBeCapturedIsToldAndTheStreamGoesOn) {
  const c10::Stream stream = NewStream();
  const c10::StreamGuard on(stream);
  const at::Tensor x = Filled(1);
  float seen = 0;
  const auto graph = accelerator().Capture(
      device_, [&] { seen = x.sum().item<float>(); }, nullptr);
  EXPECT_FALSE(graph.ok());
  EXPECT_FALSE(graph.status().message().empty());
  EXPECT_TRUE(at::equal(x.add(1).to(at::kCPU), at::full({1000}, 2.f)));
}

TEST_F(GpuGraphs, AnswersAreThoseWithoutGraphsAtEverySize) {
  for (const Network& network : {SmallMlp(), ResNet18()}) {
    SCOPED_TRACE(network.architecture);
    LoadSettings settings;
    settings.execution.graphs = false;
    const auto eager = Load(network, device_, settings);
    settings.execution.graphs = true;
    const auto replayed = Load(network, device_, settings);
    ASSERT_TRUE(eager != nullptr && replayed != nullptr);
    const auto& with_graphs = static_cast<const TorchReplica&>(*replayed->replicas.front());
    EXPECT_EQ(with_graphs.eager_because(), "");
    EXPECT_GT(with_graphs.graph_bytes(), 0);
    EXPECT_NE(static_cast<const TorchReplica&>(*eager->replicas.front()).eager_because(), "");
    for (int64_t rows = 1; rows <= 8; ++rows) {  // 3, 5, 6 and 7 are padded
      const at::Tensor input = Normal(network.Shape(rows), 20 + rows);
      const at::Tensor expected = Answer(*eager->replicas.front(), input);
      for (int repeat = 0; repeat < 3; ++repeat) {
        EXPECT_LT(RelativeError(Answer(*replayed->replicas.front(), input), expected), 1e-4)
            << rows << " rows";
      }
    }
  }
}

// Loads allocate, copy and capture beside a model that is being answered from graphs.
TEST_F(GpuGraphs, LoadsAndCapturesDoNotDisturbAnswers) {
  const auto serving = Load(SmallMlp(), device_);
  ASSERT_NE(serving, nullptr);
  std::atomic<bool> stop = false;
  std::atomic<int> loaded = 0;
  std::atomic<int> eager = 0;
  std::thread loader([&] {
    for (int64_t number = 2; !stop; ++number) {
      LoadSettings settings;
      settings.seed = number % 4;
      settings.number = number;
      const auto version = TryLoad(number % 5 == 0 ? ResNet18() : SmallMlp(), {device_}, settings);
      if (!version.ok()) {
        ADD_FAILURE() << version.status();
        return;
      }
      const auto& replica = static_cast<const TorchReplica&>(*(*version)->replicas.front());
      if (!replica.eager_because().empty()) ++eager;
      ++loaded;
    }
  });
  std::vector<at::Tensor> inputs, expected;
  for (int64_t rows = 1; rows <= 8; ++rows) {
    inputs.push_back(Normal(SmallMlp().Shape(rows), rows));
    expected.push_back(Answer(*serving->replicas.front(), inputs.back()));
  }
  int wrong = 0;
  for (int i = 0; (i < 500 || loaded < 6) && !HasFailure(); ++i) {
    const size_t which = i % inputs.size();
    const at::Tensor answer = Answer(*serving->replicas.front(), inputs[which]);
    if (RelativeError(answer, expected[which]) > 1e-5) ++wrong;
  }
  stop = true;
  loader.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GE(loaded, 6);
  EXPECT_EQ(eager, 0);
}

}  // namespace
}  // namespace sconce::gpu
