// That a device's memory is where it was after many loads, and that running out of it costs the
// batch or the load that did not fit and nothing else.
#include <ATen/DeviceAccelerator.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "server/device/device_set.h"
#include "tests/gpu/backend.h"
#include "tests/gpu/suite.h"

namespace sconce::gpu {
namespace {

constexpr int64_t kMegabyte = int64_t{1} << 20;

class GpuMemory : public GpuTest {
 protected:
  // In use on the device by whomever, once what this process only keeps is given back.
  int64_t UsedBytes() const {
    ResetDevices();
    const auto memory = MemoryOf(device_);
    EXPECT_TRUE(memory.ok()) << memory.status();
    return memory.ok() ? memory->used_bytes : 0;
  }

  // Takes memory until `smallest` bytes cannot be had.
  std::vector<at::Tensor> TakeAllBut(int64_t smallest) const {
    std::vector<at::Tensor> taken;
    int64_t size = int64_t{1} << 30;
    while (size >= smallest) {
      try {
        taken.push_back(at::empty({size}, at::TensorOptions().dtype(at::kByte).device(device_)));
      } catch (const c10::OutOfMemoryError&) {
        size /= 2;
      }
    }
    return taken;
  }
};

TEST_F(GpuMemory, StaysWhereItWasOverManyLoads) {
  const int loads = IsSimulated() ? 60 : 1000;
  const at::Tensor input = Normal(SmallMlp().Shape(5), 1);
  const auto load_once = [&](int number) {
    const bool large = number % 50 == 0;
    LoadSettings settings;
    settings.seed = number % 4;
    settings.number = number + 1;
    const auto version = Load(large ? ResNet18() : SmallMlp(), device_, settings);
    ASSERT_NE(version, nullptr);
    if (!large) Answer(*version->replicas.front(), input);
  };
  // What libraries keep once they have been used.
  for (int number = 0; number < 5; ++number) load_once(number);
  const int64_t allocated = AllocatedBytes(device_);
  const int64_t used = UsedBytes();
  for (int number = 5; number < loads && !HasFailure(); ++number) {
    load_once(number);
    EXPECT_EQ(AllocatedBytes(device_), allocated) << "after load " << number;
  }
  // The driver takes memory in pieces of 2 MiB; a version that stayed would be as much each time.
  EXPECT_LE(UsedBytes(), used + 16 * kMegabyte);
}

TEST_F(GpuMemory, ALoadThatDoesNotFitIsRefusedAndLeavesNothing) {
  LimitMemory(device_, AllocatedBytes(device_) + 300 * kMegabyte);
  ASSERT_NE(Load(ResNet18(), device_), nullptr);
  const int64_t allocated = AllocatedBytes(device_);
  {
    const std::vector<at::Tensor> taken = TakeAllBut(2 * kMegabyte);
    const int64_t beside = AllocatedBytes(device_);
    const auto version = TryLoad(ResNet18(), {device_}, {});
    EXPECT_TRUE(absl::IsResourceExhausted(version.status())) << version.status();
    EXPECT_EQ(AllocatedBytes(device_), beside);
  }
  EXPECT_EQ(AllocatedBytes(device_), allocated);
  EXPECT_NE(Load(ResNet18(), device_), nullptr);
}

TEST_F(GpuMemory, ABatchThatDoesNotFitFailsAloneAndTheReplicaGoesOn) {
  LimitMemory(device_, AllocatedBytes(device_) + 300 * kMegabyte);
  LoadSettings settings;
  settings.execution.graphs = false;  // whose memory is there already
  const auto version = Load(ResNet18(), device_, settings);
  ASSERT_NE(version, nullptr);
  Replica& replica = *version->replicas.front();
  const at::Tensor input = Normal(ResNet18().Shape(8), 1);
  const at::Tensor expected = Answer(replica, input);
  at::accelerator::emptyCache();
  {
    const std::vector<at::Tensor> taken = TakeAllBut(kMegabyte / 2);
    const auto outputs = replica.Run(Batch(replica, input));
    EXPECT_TRUE(absl::IsResourceExhausted(outputs.status())) << outputs.status();
    EXPECT_TRUE(replica.health().ok()) << replica.health();
  }
  EXPECT_LT(RelativeError(Answer(replica, input), expected), 1e-4);
}

}  // namespace
}  // namespace sconce::gpu
