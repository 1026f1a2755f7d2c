#include "server/tools/devices.h"

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/printable.h"
#include "server/device/nvidia/device_report.h"
#include "server/tools/text.h"

namespace sconce::tools {
namespace {

constexpr size_t kLabelCells = 14;

// Null where there is nothing to say.
nlohmann::json OrNull(const std::string& text) {
  return text.empty() ? nlohmann::json(nullptr) : nlohmann::json(text);
}

nlohmann::json ToJson(const GpuReport& gpu) {
  nlohmann::json json = {{"device", gpu.device},
                         {"name", gpu.name},
                         {"compute_capability", gpu.capability},
                         {"memory_bytes", gpu.memory_bytes},
                         {"free_bytes", nullptr},
                         {"pci_bus_id", OrNull(gpu.pci_bus_id)},
                         {"numa_node", nullptr},
                         {"kernels_compiled", gpu.is_covered},
                         {"error", OrNull(gpu.torch_error)}};
  if (gpu.free_bytes.has_value()) json["free_bytes"] = *gpu.free_bytes;
  if (gpu.numa_node >= 0) json["numa_node"] = gpu.numa_node;
  return json;
}

nlohmann::json ToJson(const DeviceReport& report) {
  nlohmann::json gpus = nlohmann::json::array();
  for (const GpuReport& gpu : report.gpus) gpus.push_back(ToJson(gpu));
  return {{"cpu",
           {{"name", report.cpu.name},
            {"cores", report.cpu.cores},
            {"memory_bytes", report.cpu.memory_bytes},
            {"numa_nodes", report.cpu.numa_nodes}}},
          {"cuda",
           {{"devices", gpus},
            {"driver_version", OrNull(report.driver_version)},
            {"runtime_version", OrNull(report.runtime_version)},
            {"kernels_compiled_for", report.architectures},
            {"expected", OrNull(report.cuda_expected)},
            {"error", OrNull(report.cuda_error)}}}};
}

class Section {
 public:
  Section(const std::string& title, Console& console) : console_(console) {
    console_.Print(absl::StrCat(console_.Paint(Style::kBold, title), "\n"));
  }

  void Line(const std::string& label, const std::string& text, Style style = Style::kPlain) {
    console_.Print(absl::StrCat("  ", console_.Paint(Style::kDim, PadRight(label, kLabelCells)),
                                console_.Paint(style, text), "\n"));
  }

 private:
  Console& console_;
};

void PrintCpu(const CpuReport& cpu, Console& console) {
  Section section("cpu", console);
  section.Line("name", Printable(cpu.name));
  section.Line("cores", absl::StrCat(cpu.cores, " on ", PluralText(cpu.numa_nodes, "NUMA node")));
  section.Line("memory", BytesText(cpu.memory_bytes));
}

void PrintGpu(const GpuReport& gpu, const DeviceReport& report, Console& console) {
  Section section(gpu.device, console);
  section.Line("name", absl::StrCat(Printable(gpu.name), ", compute capability ", gpu.capability));
  section.Line("memory", gpu.free_bytes.has_value()
                             ? absl::StrCat(BytesText(gpu.memory_bytes), ", ",
                                            BytesText(*gpu.free_bytes), " free")
                             : BytesText(gpu.memory_bytes));
  section.Line("place",
               absl::StrCat(gpu.pci_bus_id.empty() ? "unknown" : Printable(gpu.pci_bus_id),
                            gpu.numa_node < 0 ? std::string()
                                              : absl::StrCat(", NUMA node ", gpu.numa_node)));
  if (!gpu.is_covered) {
    section.Line("kernels",
                 absl::StrCat("none for ", gpu.capability, "; the server's own are compiled for ",
                              absl::StrJoin(report.architectures, ", ")),
                 Style::kWarning);
  }
  if (gpu.torch_error.empty()) {
    section.Line("LibTorch", "computes on it", Style::kGood);
  } else {
    section.Line("LibTorch", Printable(gpu.torch_error, 1000), Style::kBad);
  }
}

void Print(const DeviceReport& report, Console& console) {
  PrintCpu(report.cpu, console);
  for (const GpuReport& gpu : report.gpus) PrintGpu(gpu, report, console);
  Section section("cuda", console);
  if (report.cuda_error.empty()) {
    section.Line("driver", absl::StrCat("for CUDA ", report.driver_version));
    section.Line("runtime", absl::StrCat("CUDA ", report.runtime_version, ", kernels for ",
                                         absl::StrJoin(report.architectures, ", ")));
  } else if (report.cuda_expected.empty()) {
    section.Line("missing", Printable(report.cuda_error, 1000));
  } else {
    section.Line("missing", Printable(report.cuda_error, 1000), Style::kBad);
    section.Line("expected", absl::StrCat("because ", report.cuda_expected));
  }
}

}  // namespace

absl::StatusOr<int> Devices(const DevicesOptions& options, Console& console) {
  const DeviceReport report = DescribeDevices();
  if (options.json) {
    console.Print(absl::StrCat(
        ToJson(report).dump(2, ' ', true, nlohmann::json::error_handler_t::replace), "\n"));
  } else {
    Print(report, console);
  }
  return 0;  // the CPU always serves
}

}  // namespace sconce::tools
