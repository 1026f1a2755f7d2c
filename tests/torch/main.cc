// One process for all tests that need LibTorch, since each start of it costs most of a second.
#include <ATen/Parallel.h>
#include <gmock/gmock.h>

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  // The fixtures were computed on one thread; sums depend on how they are split.
  at::set_num_threads(1);
  return RUN_ALL_TESTS();
}
