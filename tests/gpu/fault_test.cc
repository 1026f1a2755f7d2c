// That a fault which stays takes its device out and nothing else. CUDA does not recover from one
// within a process: each test breaks the devices of a process of its own.
#include <ATen/ops/arange.h>
#include <ATen/ops/index_select.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "server/device/execution/torch_replica.h"
#include "tests/gpu/backend.h"
#include "tests/gpu/suite.h"
#include "tests/support/function_net.h"

namespace sconce::gpu {
namespace {

// What a child finds wrong is its exit status, with the reason before it on standard error.
#define CHILD_EXPECT(condition, what)                                          \
  do {                                                                         \
    if (!(condition)) {                                                        \
      std::fprintf(stderr, "%s: %s\n", #condition, std::string(what).c_str()); \
      std::_Exit(1);                                                           \
    }                                                                          \
  } while (false)

using GpuFaultDeathTest = GpuTest;

std::unique_ptr<TorchReplica> LookUpReplica(c10::Device device, DeviceHealth* health) {
  // A table of 8 numbers; an input of 8 or more reads beyond it, which the device notices later.
  const at::Tensor table = at::arange(8, at::TensorOptions().dtype(at::kFloat)).to(device);
  auto net = MakeFunction({4}, [table](const at::Tensor& x) {
    return table.index_select(0, x.flatten().to(at::kLong)).view(x.sizes());
  });
  ExecutionOptions options;
  options.graphs = false;
  return std::make_unique<TorchReplica>(std::move(net), device, options, health);
}

absl::StatusOr<std::vector<HostTensor>> LookUp(TorchReplica& replica, float index) {
  const at::Tensor input = at::arange(4, at::TensorOptions().dtype(at::kFloat)).view({1, 4});
  return replica.Run(Batch(replica, input.add(index)));
}

[[noreturn]] void BreakADevice() {
  DeviceHealth health;
  std::vector<std::string> lost;
  health.SetObserver(
      [&lost](const std::string& device, const std::string&) { lost.push_back(device); });
  const auto replica = LookUpReplica(Devices().front(), &health);
  const auto sibling = LookUpReplica(Devices().front(), &health);
  const auto good = LookUp(*replica, 2);
  CHILD_EXPECT(good.ok(), good.status().ToString());
  CHILD_EXPECT(View(good->front())[0][3].item<float>() == 5, "wrong number");
  CHILD_EXPECT(replica->health().ok(), replica->health().ToString());

  const auto broken = LookUp(*replica, 1e6);
  CHILD_EXPECT(absl::IsUnavailable(broken.status()), broken.status().ToString());
  CHILD_EXPECT(absl::IsUnavailable(replica->health()), replica->health().ToString());
  CHILD_EXPECT(health.LostBecause(replica->device()).has_value(), "not reported");
  CHILD_EXPECT(lost == std::vector<std::string>{replica->device()}, "not reported once");
  // For good, and for every replica of the device.
  CHILD_EXPECT(absl::IsUnavailable(LookUp(*replica, 2).status()), "answers again");
  CHILD_EXPECT(absl::IsUnavailable(LookUp(*sibling, 2).status()), "a replica beside it answers");
  const auto load = TryLoad(SmallMlp(), {Devices().front()}, {});
  CHILD_EXPECT(!load.ok(), "a load succeeds");

  if (Devices().size() > 1) {
    const auto other = LookUpReplica(Devices()[1], &health);
    const auto elsewhere = LookUp(*other, 2);
    CHILD_EXPECT(elsewhere.ok(), elsewhere.status().ToString());
    CHILD_EXPECT(other->health().ok(), other->health().ToString());
  }
  std::_Exit(0);  // a broken device's memory cannot be given back
}

TEST_F(GpuFaultDeathTest, TakesItsDeviceOutForGood) {
  EXPECT_EXIT(BreakADevice(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace sconce::gpu
