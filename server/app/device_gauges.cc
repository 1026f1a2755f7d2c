#include "server/app/device_gauges.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <optional>
#include <string>

#include "server/device/accelerator.h"

namespace sconce {
namespace {

void Export(const std::string& device, const GpuReading& reading, Metrics* metrics) {
  const auto set = [&](DeviceFigure figure, const auto& value) {
    metrics->SetDeviceFigure(
        device, figure,
        value.has_value() ? std::optional<double>(static_cast<double>(*value)) : std::nullopt);
  };
  set(DeviceFigure::kComputeUtilisation, reading.compute_utilisation);
  set(DeviceFigure::kMemoryUtilisation, reading.memory_utilisation);
  set(DeviceFigure::kTemperature, reading.temperature_celsius);
  set(DeviceFigure::kPower, reading.power_watts);
  set(DeviceFigure::kEccCorrected, reading.ecc_corrected_errors);
  set(DeviceFigure::kEccUncorrected, reading.ecc_uncorrected_errors);
}

}  // namespace

DeviceGauges::DeviceGauges(const DeviceSet* devices, Metrics* metrics)
    : devices_(devices), metrics_(metrics) {
  const auto& all = devices->devices();
  if (std::none_of(all.begin(), all.end(), [](c10::Device device) { return device.is_cuda(); })) {
    return;
  }
  auto nvml = Nvml::Open();
  if (nvml.ok()) {
    nvml_ = *std::move(nvml);
  } else {
    spdlog::info(
        "no utilisation, temperature, power and memory errors of GPUs among the metrics: {}",
        std::string(nvml.status().message()));
  }
}

void DeviceGauges::Refresh() {
  for (const c10::Device device : devices_->devices()) {
    const std::string name = device.str();
    if (nvml_ != nullptr && device.is_cuda()) {
      const Accelerator* accelerator = FindAccelerator(device.type());
      const auto reading = nvml_->Read(accelerator == nullptr ? "" : accelerator->PciBusId(device));
      // A GPU that is gone from the bus has no figures, rather than its last ones.
      Export(name, reading.ok() ? *reading : GpuReading{}, metrics_);
    }
    if (const auto memory = MemoryOf(device); memory.ok()) {
      metrics_->SetDeviceMemory(name, memory->used_bytes, memory->total_bytes);
    }
  }
}

}  // namespace sconce
