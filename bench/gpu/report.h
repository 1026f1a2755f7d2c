// What was found, as JSON and as a table for people. Pure but for ReadMachine.

#ifndef SCONCE_BENCH_GPU_REPORT_H_
#define SCONCE_BENCH_GPU_REPORT_H_

#include <c10/core/Device.h>

#include <string>

#include "bench/gpu/scenarios.h"

namespace sconce::bench {

struct Machine {
  std::string device;  // "cuda:0"
  std::string gpu;     // "NVIDIA H100 80GB HBM3"; empty on the CPU
  std::string driver;  // as the kernel module says it; empty where there is none
  std::string processor;
  int processors = 0;
  double load_average = 0;  // when the run began
  std::string torch;
  std::string command;
  std::string date;  // UTC
};

Machine ReadMachine(c10::Device device, int argc, char** argv);

std::string JsonOf(const Machine& machine, const Settings& settings, const Findings& findings);
std::string MarkdownOf(const Machine& machine, const Settings& settings, const Findings& findings);

}  // namespace sconce::bench

#endif  // SCONCE_BENCH_GPU_REPORT_H_
