#include "server/device/upload/memory_meter.h"

#include <ATen/ops/empty.h>

#include <thread>

#include "tests/device/sim_test.h"

namespace sconce {
namespace {

class MemoryMeterTest : public SimTest {
 protected:
  static at::Tensor Bytes(int64_t size, c10::Device device) {
    return at::empty({size}, at::TensorOptions().dtype(at::kByte).device(device));
  }
};

TEST_F(MemoryMeterTest, PeakIsWhatIsThereAtATime) {
  const MemoryMeter meter(sim0_);
  EXPECT_EQ(meter.peak_bytes(), 0);
  for (int i = 0; i < 3; ++i) {
    const at::Tensor one = Bytes(1024, sim0_);
    const at::Tensor two = Bytes(2048, sim0_);
  }
  EXPECT_EQ(meter.peak_bytes(), 3072);
  const at::Tensor large = Bytes(4096, sim0_);
  EXPECT_EQ(meter.peak_bytes(), 4096);
}

TEST_F(MemoryMeterTest, OtherDevicesAndOtherThreadsDoNotCount) {
  const MemoryMeter meter(sim0_);
  const at::Tensor elsewhere = Bytes(1024, sim1_);
  const at::Tensor host = Bytes(1024, c10::Device(c10::kCPU));
  at::Tensor of_another;
  std::thread([&] { of_another = Bytes(1024, sim0_); }).join();
  EXPECT_EQ(meter.peak_bytes(), 0);
}

TEST_F(MemoryMeterTest, CountsNothingAfterItsTime) {
  at::Tensor kept;
  { const MemoryMeter meter(sim0_); }
  kept = Bytes(1024, sim0_);
  const MemoryMeter meter(sim0_);
  kept.reset();
  EXPECT_EQ(meter.peak_bytes(), 0);
}

TEST_F(MemoryMeterTest, FreeMemoryIsTheLimitLessWhatIsUsed) {
  simdevice::LimitMemory(sim1_, 10'240);
  const at::Tensor used = Bytes(1024, sim1_);
  const auto memory = FreeMemoryOf(sim1_);
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_EQ(memory->total_bytes, 10'240);
  EXPECT_EQ(memory->free_bytes, 9216);
}

}  // namespace
}  // namespace sconce
