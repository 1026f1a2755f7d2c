// That the simulated devices guard their memory, run out of it where told, and break where told.
#include <ATen/DeviceAccelerator.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/mm.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <csignal>
#include <string>

#include "tests/device/sim_test.h"

namespace sconce {
namespace {

using simdevice::StatisticsOf;
using testing::HasSubstr;

template <typename Error, typename Body>
std::string MessageOf(Body body) {
  try {
    body();
  } catch (const Error& e) {
    return e.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

class SimMemory : public SimTest {
 protected:
  at::TensorOptions OnSim() const { return at::TensorOptions().device(sim0_); }
};

using SimMemoryDeathTest = SimMemory;

TEST_F(SimMemoryDeathTest, TheHostCannotTouchDeviceMemory) {
  const at::Tensor x = Floats(1).to(sim0_);
  const auto* data = static_cast<const volatile float*>(x.data_ptr());
  EXPECT_EXIT(static_cast<void>(data[0]), testing::KilledBySignal(SIGSEGV), "");
}

TEST_F(SimMemory, MixedDevicesAreRefusedInTheWordsOfCuda) {
  const at::Tensor x = at::full({2, 2}, 1.f, OnSim());
  const at::Tensor host = at::full({2, 2}, 1.f);
  EXPECT_THAT(MessageOf<c10::Error>([&] { at::mm(x, host); }),
              HasSubstr("Expected all tensors to be on the same device, but got mat2 is on cpu, "
                        "different from other tensors on sim:0"));
  EXPECT_THAT(MessageOf<c10::Error>([&] { at::mm(x, x.to(sim1_)); }),
              HasSubstr("Expected all tensors to be on the same device, but got mat2 is on sim:1, "
                        "different from other tensors on sim:0"));
  EXPECT_THAT(MessageOf<c10::Error>([&] {
                at::cat({x, host});
              }),
              HasSubstr("Expected all tensors to be on the same device"));
}

TEST_F(SimMemory, ANumberInACpuTensorGoesWithAnyDevice) {
  const at::Tensor two = at::full({}, 2.f);
  const at::Tensor x = at::full({4}, 3.f, OnSim());
  simdevice::Hold(sim0_);
  const at::Tensor product = x.mul(two);
  two.fill_(5);  // its value is taken at the call
  simdevice::Release(sim0_);
  EXPECT_EQ(First(product), 6);
}

TEST_F(SimMemory, FreshMemoryIsNotANumber) {
  EXPECT_TRUE(std::isnan(First(at::empty({64}, OnSim()))));
}

TEST_F(SimMemory, UseIsReadAsFromAnyAccelerator) {
  const int64_t before = StatisticsOf(sim0_).live_bytes;
  at::Tensor x = at::empty({1024}, OnSim());
  EXPECT_EQ(StatisticsOf(sim0_).live_bytes, before + 4096);
  EXPECT_EQ(at::accelerator::getDeviceStats(0).allocated_bytes[0].current, before + 4096);
  const auto [free_bytes, total_bytes] = at::accelerator::getMemoryInfo(0);
  EXPECT_EQ(static_cast<int64_t>(total_bytes - free_bytes), before + 4096);
  x.reset();
  EXPECT_EQ(StatisticsOf(sim0_).live_bytes, before);
  EXPECT_GE(StatisticsOf(sim0_).peak_bytes, before + 4096);
}

TEST_F(SimMemory, EachDeviceHasALimitOfItsOwn) {
  simdevice::LimitMemory(sim0_, StatisticsOf(sim0_).live_bytes + (1 << 20));
  at::Tensor half = at::empty({1 << 17}, OnSim());
  EXPECT_THAT(MessageOf<c10::OutOfMemoryError>([&] { at::empty({1 << 18}, OnSim()); }),
              HasSubstr("sim out of memory. Tried to allocate 1048576 bytes. Device 0 has"));
  EXPECT_NO_THROW(at::empty({1 << 18}, OnSim().device(sim1_)));
  half.reset();
  EXPECT_NO_THROW(at::empty({1 << 18}, OnSim()));
}

TEST_F(SimMemory, FreedMemoryDoesNotCountThoughItsStreamIsHeld) {
  simdevice::LimitMemory(sim0_, StatisticsOf(sim0_).live_bytes + (1 << 20));
  simdevice::Hold(sim0_);
  for (int i = 0; i < 10; ++i) EXPECT_NO_THROW(at::empty({1 << 18}, OnSim()));
}

TEST_F(SimMemory, TheNthAllocationFailsAndNoOther) {
  simdevice::FailAllocation(sim0_, 3);
  EXPECT_NO_THROW(at::empty({1}, OnSim()));
  EXPECT_NO_THROW(at::empty({1}, OnSim().device(sim1_)));
  EXPECT_NO_THROW(at::empty({1}, OnSim()));
  EXPECT_THROW(at::empty({1}, OnSim()), c10::OutOfMemoryError);
  EXPECT_NO_THROW(at::empty({1}, OnSim()));
}

TEST_F(SimMemory, AnOperatorWhoseOutputDoesNotFitIsOutOfMemory) {
  const at::Tensor x = Floats(1).to(sim0_);
  simdevice::FailAllocation(sim0_, 1);
  EXPECT_THROW(x.add(1), c10::OutOfMemoryError);
  EXPECT_EQ(First(x.add(1)), 2);
}

TEST_F(SimMemory, PinnedMemoryIsPinnedToItsLastByte) {
  const int64_t before = simdevice::PinnedBytes();
  at::Tensor pinned = at::empty({1024}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
  EXPECT_TRUE(pinned.is_pinned());
  EXPECT_TRUE(pinned.slice(0, 1023).is_pinned());
  EXPECT_FALSE(Floats(1).is_pinned());
  EXPECT_EQ(simdevice::PinnedBytes(), before + 1024);
  pinned.reset();
  EXPECT_EQ(simdevice::PinnedBytes(), before);
  simdevice::FailPinnedAllocation(1);
  EXPECT_THROW(PinnedFloats(1), c10::AcceleratorError);
  EXPECT_NO_THROW(PinnedFloats(1));
}

class SimFaults : public SimMemory {};

TEST_F(SimFaults, AFaultSurfacesLaterAndStays) {
  const at::Tensor x = Floats(1).to(sim0_);
  const c10::Stream stream = simdevice::NewStream(sim0_);
  const c10::StreamGuard on(stream);
  simdevice::Hold(stream);
  simdevice::FailKernel(sim0_, 2);
  at::Tensor y;
  EXPECT_NO_THROW(y = x.add(1));
  EXPECT_NO_THROW(y = y.add(1));  // the one that breaks
  bool done_after = false;
  simdevice::Launch(stream, [&done_after] { done_after = true; });
  c10::Event done(sim0_.type());
  done.record(stream);
  simdevice::Release(stream);
  EXPECT_THAT(MessageOf<c10::AcceleratorError>([&] { stream.synchronize(); }),
              HasSubstr("sim error: an illegal memory access was encountered"));
  EXPECT_FALSE(done_after);
  EXPECT_THROW(y.add(1), c10::AcceleratorError);
  EXPECT_THROW(y.to(at::kCPU), c10::AcceleratorError);
  EXPECT_THROW(at::empty({1}, OnSim()), c10::AcceleratorError);
  EXPECT_THROW(stream.query(), c10::AcceleratorError);
  EXPECT_THROW(done.synchronize(), c10::AcceleratorError);
  EXPECT_THROW(done.record(stream), c10::AcceleratorError);
  EXPECT_THROW(at::accelerator::synchronizeDevice(0), c10::AcceleratorError);
  y.reset();  // memory may be given back
  EXPECT_EQ(First(Floats(3).to(sim1_).add(1)), 4);
}

TEST_F(SimFaults, CopiesCountToo) {
  const at::Tensor x = Floats(1).to(sim0_);
  simdevice::FailKernel(sim0_, 1);
  EXPECT_THROW(x.to(at::kCPU), c10::AcceleratorError);
}

TEST_F(SimFaults, WhatAKernelThrowsBreaksTheDevice) {
  const at::Tensor x = Floats(1, 4).to(sim0_);
  const at::Tensor index = at::full({1}, 7, OnSim().dtype(at::kLong));
  const at::Tensor y = at::index_select(x, 0, index);
  EXPECT_THAT(MessageOf<c10::AcceleratorError>([&] { y.to(at::kCPU); }),
              HasSubstr("device-side assert triggered"));
}

TEST_F(SimFaults, WrongArgumentsAreRefusedAtTheCallAndBreakNothing) {
  const at::Tensor x = at::full({2, 3}, 1.f, OnSim());
  EXPECT_THROW(at::mm(x, x), c10::Error);
  EXPECT_EQ(First(at::mm(x, x.t())), 3);
}

}  // namespace
}  // namespace sconce
