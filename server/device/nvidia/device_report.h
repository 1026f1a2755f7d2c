// What there is on this machine to serve on, and why CUDA is missing where it was expected.

#ifndef SCONCE_SERVER_DEVICE_NVIDIA_DEVICE_REPORT_H_
#define SCONCE_SERVER_DEVICE_NVIDIA_DEVICE_REPORT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace sconce {

struct CpuReport {
  std::string name;
  int cores = 0;  // that this process may use
  int64_t memory_bytes = 0;
  int numa_nodes = 0;
};

struct GpuReport {
  std::string device;  // "cuda:0"
  std::string name;
  std::string capability;  // "9.0"
  int64_t memory_bytes = 0;
  std::optional<int64_t> free_bytes;
  std::string pci_bus_id;
  int numa_node = -1;       // -1 where that is unknown
  bool is_covered = false;  // whether the server's own kernels are compiled for it
  std::string torch_error;  // why LibTorch cannot compute on it; empty if it can
};

struct DeviceReport {
  CpuReport cpu;
  std::vector<GpuReport> gpus;
  // Where there are GPUs, "13.0", and the architectures of the server's own kernels, "7.5".
  std::string driver_version;
  std::string runtime_version;
  std::vector<std::string> architectures;
  // Why there are none, else.
  std::string cuda_error;
  // Why CUDA could be expected on this machine; empty where nothing speaks for it.
  std::string cuda_expected;
};

// Loads CUDA where it is there, and computes a little on each GPU. Called once, before anything
// asks LibTorch for CUDA.
DeviceReport DescribeDevices();

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_NVIDIA_DEVICE_REPORT_H_
