#include "bench/gpu/run.h"

int main(int argc, char** argv) { return sconce::bench::RunGpuBench(argc, argv); }
