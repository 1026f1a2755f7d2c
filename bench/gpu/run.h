// What serving on a device costs, compared with LibTorch alone on the same device, in one process
// and without a network. Writes one JSON file and one table in Markdown; docs/performance.md says
// how to read them.

#ifndef SCONCE_BENCH_GPU_RUN_H_
#define SCONCE_BENCH_GPU_RUN_H_

namespace sconce::bench {

// The program but for main; gives its exit status, 77 where the device cannot be had.
int RunGpuBench(int argc, char** argv);

}  // namespace sconce::bench

#endif  // SCONCE_BENCH_GPU_RUN_H_
