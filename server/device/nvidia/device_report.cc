#include "server/device/nvidia/device_report.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/base/numa.h"
#include "server/device/nvidia/cuda_loader.h"
#include "server/device/nvidia/pci.h"

namespace sconce {
namespace {

// The kernel's name of the processor, or of its kind where it has none, as on Arm.
std::string CpuName() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) {
      return line.substr(colon + 2);
    }
  }
  utsname system = {};
  return uname(&system) == 0 ? system.machine : "unknown";
}

int NumaNodes() {
  std::string list;
  std::ifstream online("/sys/devices/system/node/online");
  if (!std::getline(online, list)) return 1;
  const auto nodes = ParseCpuList(list);
  return nodes.ok() && !nodes->empty() ? static_cast<int>(nodes->size()) : 1;
}

CpuReport DescribeCpu() {
  CpuReport cpu;
  cpu.name = CpuName();
  cpu.cores = static_cast<int>(std::thread::hardware_concurrency());
  cpu.memory_bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  cpu.numa_nodes = NumaNodes();
  return cpu;
}

GpuReport DescribeGpu(const CudaModule& cuda, int index) {
  SconceCudaDevice device;
  cuda.describe_device(index, &device);
  GpuReport gpu;
  gpu.device = absl::StrCat("cuda:", index);
  gpu.name = device.name;
  gpu.capability = absl::StrCat(device.capability_major, ".", device.capability_minor);
  gpu.memory_bytes = device.total_bytes;
  if (device.free_bytes >= 0) gpu.free_bytes = device.free_bytes;
  gpu.pci_bus_id = device.pci_bus_id;
  if (!gpu.pci_bus_id.empty()) gpu.numa_node = NumaNodeOfPciDevice(gpu.pci_bus_id);
  gpu.is_covered = device.is_covered != 0;
  gpu.torch_error = device.torch_error;
  return gpu;
}

// "75,120" is 7.5 and 12.0.
std::vector<std::string> Capabilities(const char* architectures) {
  std::vector<std::string> capabilities;
  for (const absl::string_view text : absl::StrSplit(architectures, ',')) {
    int number = 0;
    if (absl::SimpleAtoi(text, &number)) {
      capabilities.push_back(absl::StrCat(number / 10, ".", number % 10));
    }
  }
  return capabilities;
}

}  // namespace

DeviceReport DescribeDevices() {
  DeviceReport report;
  report.cpu = DescribeCpu();
  report.cuda_expected = WhyCudaIsExpected();
  const auto& cuda = LoadCuda();
  if (!cuda.ok()) {
    report.cuda_error = std::string(cuda.status().message());
    return report;
  }
  report.driver_version = CudaVersionText(cuda->driver_version);
  report.runtime_version = CudaVersionText(cuda->runtime_version);
  report.architectures = Capabilities(cuda->architectures());
  for (int i = 0; i < cuda->device_count; ++i) report.gpus.push_back(DescribeGpu(*cuda, i));
  return report;
}

}  // namespace sconce
