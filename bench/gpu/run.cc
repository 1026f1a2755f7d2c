#include "bench/gpu/run.h"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <stdlib.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "bench/gpu/report.h"
#include "bench/gpu/scenarios.h"
#include "server/device/device_set.h"

namespace sconce::bench {
namespace {

// What makes the status that CTest knows as skipped.
constexpr int kSkipped = 77;

class Folder {
 public:
  Folder() : path_((std::filesystem::temp_directory_path() / "sconce-bench-XXXXXX").string()) {
    if (mkdtemp(path_.data()) == nullptr) throw std::runtime_error("cannot make " + path_);
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

bool WriteFile(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  if (!file) std::cerr << "sconce_gpu_bench: cannot write " << path << "\n";
  return static_cast<bool>(file);
}

int Main(int argc, char** argv) {
  const std::map<std::string, Precision> precision_names = {{"fp32", Precision::kFp32},
                                                            {"tf32", Precision::kTf32},
                                                            {"fp16", Precision::kFp16},
                                                            {"bf16", Precision::kBf16}};
  const std::vector<std::string> scenario_names = {"offline", "bounded", "load", "swaps"};
  const std::vector<std::string> workload_names = {"resnet50", "bert"};
  Settings settings;
  std::string device = "cuda:0", json_path, markdown_path;
  std::vector<std::string> scenarios = scenario_names, workloads = workload_names;
  std::vector<std::string> precisions = {"fp32", "tf32", "fp16", "bf16"};
  int threads = 1;
  CLI::App app("Measures serving on one device against LibTorch alone; see docs/performance.md.",
               "sconce_gpu_bench");
  app.add_option("--device", device, "cuda:N, or cpu.")->capture_default_str();
  app.add_option("--scenarios", scenarios, "Of offline, bounded, load, swaps.")
      ->delimiter(',')
      ->check(CLI::IsMember(scenario_names));
  app.add_option("--workloads", workloads, "Of resnet50, bert.")
      ->delimiter(',')
      ->check(CLI::IsMember(workload_names));
  app.add_option("--precisions", precisions,
                 "Of fp32, tf32, fp16, bf16; all but offline take the last.")
      ->delimiter(',')
      ->check(CLI::IsMember(precision_names));
  app.add_option("--pairs", settings.pairs, "Windows of each kind.")
      ->check(CLI::Range(2, 1000))
      ->capture_default_str();
  app.add_option("--seconds", settings.seconds, "Length of a window.")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--threads", threads, "LibTorch's threads on the CPU.")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--quick", settings.quick, "Tiny networks: to see that it runs, not for figures.");
  app.add_option("--json", json_path, "Where the JSON goes.");
  app.add_option("--markdown", markdown_path, "Where the table goes; standard output otherwise.");
  CLI11_PARSE(app, argc, argv);

  const auto devices = DeviceSet::Open(device);
  if (!devices.ok()) {
    std::cout << "no GPU: skipped: " << devices.status().message() << "\n";
    return absl::IsFailedPrecondition(devices.status()) ? kSkipped : 1;
  }
  settings.device = devices->devices().front();
  for (const std::string& name : precisions)
    settings.precisions.push_back(precision_names.at(name));
  at::set_num_threads(threads);
  const Folder folder;
  settings.folder = folder.path();

  const Machine machine = ReadMachine(settings.device, argc, argv);
  const auto wanted = [&](const char* name) {
    return std::count(scenarios.begin(), scenarios.end(), name) > 0;
  };
  Findings findings;
  absl::Status status;
  for (const std::string& name : workloads) {
    const Workload workload = name == "bert" ? Bert(settings.quick) : ResNet50(settings.quick);
    if (status.ok() && wanted("offline")) status = MeasureOffline(settings, workload, &findings);
    if (status.ok() && wanted("bounded")) status = MeasureUnderBound(settings, workload, &findings);
    if (status.ok() && wanted("swaps")) status = MeasureSwaps(settings, workload, &findings);
  }
  if (status.ok() && wanted("load")) status = MeasureLoad(settings, &findings);
  if (!status.ok()) {
    std::cerr << "sconce_gpu_bench: " << status.message() << "\n";
    return 1;
  }
  const std::string table = MarkdownOf(machine, settings, findings);
  bool written = json_path.empty() || WriteFile(json_path, JsonOf(machine, settings, findings));
  if (markdown_path.empty()) {
    std::cout << table;
  } else {
    written = WriteFile(markdown_path, table) && written;
  }
  return written ? 0 : 1;
}

}  // namespace

int RunGpuBench(int argc, char** argv) {
  try {
    return Main(argc, argv);
  } catch (const std::exception& e) {  // LibTorch's
    std::cerr << "sconce_gpu_bench: " << e.what() << "\n";
    return 1;
  }
}

}  // namespace sconce::bench
