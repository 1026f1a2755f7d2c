// sconce_bare_libtorch: a network with its weights and nothing around it: what serving is compared
// with. Loads the file as the server does and runs forward on one input again and again.
//
// Prints "ready", then for each line of its input, which gives a number of seconds, runs for that
// long and prints rows per second and rows per second of processor time. Ends with its input.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/rand.h>
#include <c10/core/InferenceMode.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <exception>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/catalog.h"
#include "models/net.h"
#include "server/checkpoint/checkpoint.h"
#include "server/program/exported_program.h"
#include "server/weights/load_state_dict.h"
#include "server/weights/state_dict.h"

namespace sconce::bench {
namespace {

absl::StatusOr<std::unique_ptr<models::Net>> CreateNet(const Checkpoint& checkpoint,
                                                       const std::string& program) {
  if (!program.empty()) {
    const auto architecture = OpenExportedProgram(program, {});
    if (!architecture.ok()) return architecture.status();
    return (*architecture)->Create({});
  }
  const auto layout = DescribeState(checkpoint);
  if (!layout.ok()) return layout.status();
  const auto detection = models::Detect(layout->tensors, {});
  if (!detection.ok()) return detection.status();
  return detection->architecture->Create(detection->parameters);
}

absl::StatusOr<std::unique_ptr<models::Net>> LoadNet(const std::string& path,
                                                     const std::string& program) {
  const auto checkpoint = OpenCheckpoint(path);
  if (!checkpoint.ok()) return checkpoint.status();
  const auto state = ReadStateDict(**checkpoint);
  if (!state.ok()) return state.status();
  auto net = CreateNet(**checkpoint, program);
  if (!net.ok()) return net.status();
  const auto loaded = LoadStateDict(**net, *state);
  if (!loaded.ok()) return loaded.status();
  (*net)->Eval(at::kCPU);
  return net;
}

struct Rates {
  double per_second = 0;
  double per_processor_second = 0;
};

Rates Run(const models::Net& net, const std::vector<at::Tensor>& inputs, double seconds) {
  using SteadyClock = std::chrono::steady_clock;
  const SteadyClock::time_point begin = SteadyClock::now();
  const std::clock_t cpu_begin = std::clock();
  std::chrono::duration<double> took{0};
  double rows = 0;
  do {
    net.Forward(inputs);
    rows += static_cast<double>(inputs.front().size(0));
    took = SteadyClock::now() - begin;
  } while (took.count() < seconds);
  const double cpu = static_cast<double>(std::clock() - cpu_begin) / CLOCKS_PER_SEC;
  return {rows / took.count(), rows / cpu};
}

int Main(int argc, char** argv) {
  std::string weights;
  std::string program;
  std::vector<int64_t> shape;
  int64_t batch = 1;
  int threads = 1;
  CLI::App app("Runs a network without a server around it; see the head of bare_libtorch.cc.",
               "sconce_bare_libtorch");
  app.add_option("--weights", weights, "The weights file.")->required();
  app.add_option("--program", program, "An exported program to run, in place of the catalog's.");
  app.add_option("--shape", shape, "Of one row: 3,224,224.")
      ->required()
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app.add_option("--batch", batch, "Rows in each run.")->check(CLI::PositiveNumber);
  app.add_option("--threads", threads, "LibTorch's threads.")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);

  at::set_num_threads(threads);
  const auto net = LoadNet(weights, program);
  if (!net.ok()) {
    std::cerr << "sconce_bare_libtorch: " << net.status().message() << "\n";
    return 1;
  }
  const c10::InferenceMode inference_mode;
  shape.insert(shape.begin(), batch);
  const std::vector<at::Tensor> inputs = {at::rand(shape)};
  Run(**net, inputs, 0);
  std::cout << "ready" << std::endl;
  for (double seconds = 0; std::cin >> seconds;) {
    const Rates rates = Run(**net, inputs, seconds);
    std::cout << rates.per_second << " " << rates.per_processor_second << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace sconce::bench

int main(int argc, char** argv) {
  try {
    return sconce::bench::Main(argc, argv);
  } catch (const std::exception& e) {  // LibTorch's
    std::cerr << "sconce_bare_libtorch: " << e.what() << "\n";
    return 1;
  }
}
