#include "bench/gpu/report.h"

#include <sys/sysinfo.h>
#include <torch/version.h>

#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace sconce::bench {
namespace {

using Json = nlohmann::ordered_json;

// What follows "<name> ... :" in a file of such lines; empty where there is none.
std::string LineOf(const std::string& path, std::string_view name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.compare(0, name.size(), name) != 0) continue;
    const size_t colon = line.find(':');
    const size_t begin = line.find_first_not_of(" \t", colon == std::string::npos ? 0 : colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

std::string Rounded(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

// Three digits that mean something.
std::string Figure(double value) {
  char text[64];
  std::snprintf(text, sizeof text, value >= 1000 ? "%.0f" : "%.3g", value);
  return text;
}

Json JsonOf(const Spread& spread) {
  return {{"low", spread.low}, {"median", spread.median}, {"high", spread.high}};
}

Json JsonOf(const std::vector<Window>& windows) {
  Json all = Json::array();
  for (const Window& window : windows) {
    all.push_back({{"per_second", window.per_second},
                   {"p50_ms", window.p50_ms},
                   {"p99_ms", window.p99_ms},
                   {"failed", window.failed}});
  }
  return all;
}

Json JsonOf(const Comparison& comparison) {
  Json json = {{"name", comparison.name},
               {"unit", comparison.unit},
               {"a", {{"name", comparison.a_name}, {"windows", JsonOf(comparison.a)}}},
               {"b", {{"name", comparison.b_name}, {"windows", JsonOf(comparison.b)}}},
               {"ratio", JsonOf(comparison.Ratio())},
               {"a_against_itself", JsonOf(comparison.SameAgainstItself())}};
  if (comparison.bound_ms.has_value()) {
    json["bound_ms"] = *comparison.bound_ms;
    json["p99_ms"] = JsonOf(comparison.P99OfB());
  }
  if (comparison.aim.has_value()) {
    json["aim"] = *comparison.aim;
    json["met"] = comparison.MeetsAim();
  }
  return json;
}

Json JsonOf(const Latencies& latencies) {
  return {{"requests", latencies.requests},
          {"p50_ms", latencies.p50_ms},
          {"p99_ms", latencies.p99_ms},
          {"p999_ms", latencies.p999_ms},
          {"max_ms", latencies.max_ms}};
}

double MedianRate(const std::vector<Window>& windows) {
  std::vector<double> rates;
  for (const Window& window : windows) rates.push_back(window.per_second);
  return SpreadOf(std::move(rates)).median;
}

std::string Cell(const Latencies& latencies) {
  return absl::StrCat(latencies.requests, " | ", Figure(latencies.p50_ms), " | ",
                      Figure(latencies.p99_ms), " | ", Figure(latencies.p999_ms), " | ",
                      Figure(latencies.max_ms));
}

}  // namespace

Machine ReadMachine(c10::Device device, int argc, char** argv) {
  Machine machine;
  machine.device = device.str();
  if (!device.is_cpu()) {
    machine.driver = LineOf("/proc/driver/nvidia/version", "NVRM version");
    std::error_code none;
    for (const auto& folder :
         std::filesystem::directory_iterator("/proc/driver/nvidia/gpus", none)) {
      const std::string model = LineOf(folder.path() / "information", "Model");
      if (machine.gpu.find(model) != std::string::npos) continue;
      absl::StrAppend(&machine.gpu, machine.gpu.empty() ? "" : ", ", model);
    }
  }
  machine.processor = LineOf("/proc/cpuinfo", "model name");
  machine.processors = get_nprocs();
  double load[1] = {0};
  if (getloadavg(load, 1) == 1) machine.load_average = load[0];
  machine.torch = TORCH_VERSION;
  for (int i = 0; i < argc; ++i) {
    // The program's folder says nothing to anybody else.
    const std::string word = i == 0 ? std::filesystem::path(argv[0]).filename() : argv[i];
    absl::StrAppend(&machine.command, i == 0 ? "" : " ", word);
  }
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  char text[32] = "";
  if (gmtime_r(&now, &utc) != nullptr) std::strftime(text, sizeof text, "%Y-%m-%d %H:%M", &utc);
  machine.date = text;
  return machine;
}

std::string JsonOf(const Machine& machine, const Settings& settings, const Findings& findings) {
  Json precisions = Json::array();
  for (const Precision precision : settings.precisions) precisions.push_back(NameOf(precision));
  Json json = {{"machine",
                {{"device", machine.device},
                 {"gpu", machine.gpu},
                 {"driver", machine.driver},
                 {"processor", machine.processor},
                 {"processors", machine.processors},
                 {"load_average", machine.load_average},
                 {"torch", machine.torch},
                 {"date", machine.date},
                 {"command", machine.command}}},
               {"settings",
                {{"quick", settings.quick},
                 {"pairs", settings.pairs},
                 {"seconds", settings.seconds},
                 {"precisions", precisions}}},
               {"comparisons", Json::array()},
               {"swaps", Json::array()}};
  for (const Comparison& comparison : findings.comparisons) {
    json["comparisons"].push_back(JsonOf(comparison));
  }
  for (const SwapFindings& swaps : findings.swaps) {
    json["swaps"].push_back({{"name", swaps.name},
                             {"swaps", swaps.swaps},
                             {"requests_per_second", swaps.rate},
                             {"load_seconds", JsonOf(swaps.load_seconds)},
                             {"within", JsonOf(swaps.within)},
                             {"outside", JsonOf(swaps.outside)},
                             {"failed", swaps.failed}});
  }
  return json.dump(2) + "\n";
}

std::string MarkdownOf(const Machine& machine, const Settings& settings, const Findings& findings) {
  std::string text = absl::StrCat(
      machine.gpu.empty() ? machine.device : absl::StrCat(machine.gpu, " (", machine.device, ")"),
      machine.driver.empty() ? "" : absl::StrCat(", driver ", machine.driver), "; ",
      machine.processor, ", ", machine.processors, " processors, load average ",
      Rounded(machine.load_average, 2), "; LibTorch ", machine.torch, "; ", machine.date,
      " UTC\n\n`", machine.command, "`: ", settings.pairs, " pairs of windows of ",
      Figure(settings.seconds), " s in turn\n");
  if (settings.quick) {
    absl::StrAppend(&text, "\n**Tiny networks and windows: this shows that the program runs; its ",
                    "figures mean nothing.**\n");
  }
  if (!findings.comparisons.empty()) {
    absl::StrAppend(&text,
                    "\n| what | unit | A | B | A | B | B / A, median (middle half) | A / A, middle "
                    "half | p99 of B, ms | aim |\n|---|---|---|---|---|---|---|---|---|---|\n");
  }
  for (const Comparison& comparison : findings.comparisons) {
    const Spread ratio = comparison.Ratio(), same = comparison.SameAgainstItself();
    absl::StrAppend(&text, "| ", comparison.name, " | ", comparison.unit, " | ", comparison.a_name,
                    " | ", comparison.b_name, " | ", Figure(MedianRate(comparison.a)), " | ",
                    Figure(MedianRate(comparison.b)), " | **", Rounded(ratio.median, 3), "** (",
                    Rounded(ratio.low, 3), "-", Rounded(ratio.high, 3), ") | ",
                    Rounded(same.low, 3), "-", Rounded(same.high, 3), " | ",
                    Figure(comparison.P99OfB().median), " | ");
    if (comparison.aim.has_value()) {
      absl::StrAppend(&text, Rounded(*comparison.aim, 2), ": ",
                      comparison.MeetsAim() ? "met" : "missed");
    }
    if (comparison.Failed() > 0) absl::StrAppend(&text, "; ", comparison.Failed(), " failed");
    absl::StrAppend(&text, " |\n");
  }
  if (!findings.swaps.empty()) {
    absl::StrAppend(&text,
                    "\n| swaps under load | requests/s | load, s | requests | p50, ms | p99 | "
                    "p99.9 | max | failed |\n|---|---|---|---|---|---|---|---|---|\n");
  }
  for (const SwapFindings& swaps : findings.swaps) {
    absl::StrAppend(&text, "| ", swaps.name, ", ", swaps.swaps, " swaps: beside one | ",
                    Figure(swaps.rate), " | ", Figure(swaps.load_seconds.median), " | ",
                    Cell(swaps.within), " | ", swaps.failed, " |\n| without | | | ",
                    Cell(swaps.outside), " | |\n");
  }
  return text;
}

}  // namespace sconce::bench
