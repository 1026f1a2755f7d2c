// One process for all tests on the simulated devices, since each start of LibTorch costs most of a
// second.
#include <ATen/Parallel.h>
#include <gmock/gmock.h>

#include "tests/support/simdevice/accelerator.h"
#include "tests/support/simdevice/simdevice.h"

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  // A child forked beside the streams' threads could find their lock taken for ever.
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  // Answers are compared bit for bit; sums depend on how they are split.
  at::set_num_threads(1);
  sconce::simdevice::Start(/*devices=*/3);
  sconce::simdevice::RegisterSimAccelerator();
  return RUN_ALL_TESTS();
}
