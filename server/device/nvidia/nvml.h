// Nvml: what NVIDIA's management library says of GPUs, where it is on the machine. It comes with
// the driver and is opened at run time; nothing is linked with it. It goes on answering for a GPU
// on which CUDA has failed.
//
// Free of torch. Thread-safe, as the library is. Owned by App; opened only where CUDA devices are
// in use.

#ifndef SCONCE_SERVER_DEVICE_NVIDIA_NVML_H_
#define SCONCE_SERVER_DEVICE_NVIDIA_NVML_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace sconce {

// A GPU at one moment; what it does not report is empty.
struct GpuReading {
  std::optional<int64_t> memory_used_bytes;
  std::optional<int64_t> memory_total_bytes;
  // Shares, from 0 to 1, of the last sample period in which a kernel ran, or memory was accessed.
  std::optional<double> compute_utilisation;
  std::optional<double> memory_utilisation;
  std::optional<double> temperature_celsius;
  std::optional<double> power_watts;
  // Since the driver was loaded.
  std::optional<int64_t> ecc_corrected_errors;
  std::optional<int64_t> ecc_uncorrected_errors;
};

class Nvml {
 public:
  // UNAVAILABLE with the reason where the library is not there, is none, or does not start.
  static absl::StatusOr<std::unique_ptr<Nvml>> Open(
      const std::string& library = "libnvidia-ml.so.1");

  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  // The GPU at a place on the PCI bus, "0000:3b:00.0": CUDA_VISIBLE_DEVICES gives CUDA's devices
  // other numbers than NVML's. NOT_FOUND where NVML knows of none there.
  absl::StatusOr<GpuReading> Read(const std::string& pci_bus_id) const;

 private:
  struct Library;
  explicit Nvml(std::unique_ptr<Library> library);

  const std::unique_ptr<Library> library_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_NVIDIA_NVML_H_
