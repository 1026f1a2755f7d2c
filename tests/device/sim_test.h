// What the tests on the simulated devices share: devices that are as new for each test, and tensors
// there.
#ifndef SCONCE_TESTS_DEVICE_SIM_TEST_H_
#define SCONCE_TESTS_DEVICE_SIM_TEST_H_

#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <c10/core/Device.h>
#include <gmock/gmock.h>

#include "tests/support/simdevice/simdevice.h"

namespace sconce {

class SimTest : public testing::Test {
 protected:
  ~SimTest() override { simdevice::Reset(); }

  static at::Tensor Floats(float value, int64_t count = 64) { return at::full({count}, value); }
  static at::Tensor PinnedFloats(float value, int64_t count = 64) {
    return at::full({count}, value, at::TensorOptions().pinned_memory(true));
  }

  const c10::Device sim0_ = simdevice::Device(0);
  const c10::Device sim1_ = simdevice::Device(1);
};

// The first value of a tensor, in order with the current stream if it is on a device.
inline float First(const at::Tensor& tensor) { return tensor.flatten()[0].item<float>(); }

}  // namespace sconce

#endif  // SCONCE_TESTS_DEVICE_SIM_TEST_H_
