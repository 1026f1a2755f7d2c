// The GPU benchmark on simulated devices: that it runs where work is done later, as on a GPU.
#include "bench/gpu/run.h"
#include "tests/support/simdevice/accelerator.h"
#include "tests/support/simdevice/simdevice.h"

int main(int argc, char** argv) {
  sconce::simdevice::Start(/*devices=*/1);
  sconce::simdevice::RegisterSimAccelerator();
  return sconce::bench::RunGpuBench(argc, argv);
}
