#include "server/device/nvidia/nvml.h"

#include <dlfcn.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace sconce {
namespace {

// NVML's interface, as far as it is used; its header is not needed to build.
using Result = int;
using Device = void*;
constexpr Result kSuccess = 0;
constexpr int kTemperatureOfGpu = 0;
constexpr int kCorrected = 0, kUncorrected = 1;
constexpr int kSinceDriverLoad = 0;

}  // namespace

// The functions by NVML's names; null where the library has none of that name.
struct Nvml::Library {
  struct Memory {
    unsigned long long total, free, used;
  };

  struct Utilisation {
    unsigned gpu, memory;  // percent
  };

  ~Library() {
    if (handle != nullptr) dlclose(handle);
  }

  template <typename Function>
  void Find(const char* name, Function** function) {
    *function = reinterpret_cast<Function*>(dlsym(handle, name));
  }

  std::string ErrorText(Result result) const {
    const char* text = error_string == nullptr ? nullptr : error_string(result);
    return text == nullptr ? absl::StrCat("error ", result) : text;
  }

  void* handle = nullptr;
  Result (*init)() = nullptr;
  Result (*shutdown)() = nullptr;
  const char* (*error_string)(Result) = nullptr;
  Result (*by_pci_bus_id)(const char*, Device*) = nullptr;
  Result (*memory)(Device, Memory*) = nullptr;
  Result (*utilisation)(Device, Utilisation*) = nullptr;
  Result (*temperature)(Device, int, unsigned*) = nullptr;
  Result (*power_milliwatts)(Device, unsigned*) = nullptr;
  Result (*ecc_errors)(Device, int, int, unsigned long long*) = nullptr;
};

Nvml::Nvml(std::unique_ptr<Library> library) : library_(std::move(library)) {}

Nvml::~Nvml() {
  if (library_->shutdown != nullptr) library_->shutdown();
}

absl::StatusOr<std::unique_ptr<Nvml>> Nvml::Open(const std::string& library) {
  auto opened = std::make_unique<Library>();
  opened->handle = dlopen(library.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (opened->handle == nullptr) {
    return absl::UnavailableError(absl::StrCat("NVML cannot be loaded: ", dlerror()));
  }
  opened->Find("nvmlInit_v2", &opened->init);
  opened->Find("nvmlShutdown", &opened->shutdown);
  opened->Find("nvmlErrorString", &opened->error_string);
  opened->Find("nvmlDeviceGetHandleByPciBusId_v2", &opened->by_pci_bus_id);
  opened->Find("nvmlDeviceGetMemoryInfo", &opened->memory);
  opened->Find("nvmlDeviceGetUtilizationRates", &opened->utilisation);
  opened->Find("nvmlDeviceGetTemperature", &opened->temperature);
  opened->Find("nvmlDeviceGetPowerUsage", &opened->power_milliwatts);
  opened->Find("nvmlDeviceGetTotalEccErrors", &opened->ecc_errors);
  if (opened->init == nullptr || opened->by_pci_bus_id == nullptr) {
    return absl::UnavailableError(absl::StrCat(library,
                                               " is not NVML: expected nvmlInit_v2 and "
                                               "nvmlDeviceGetHandleByPciBusId_v2 in it"));
  }
  if (const Result result = opened->init(); result != kSuccess) {
    return absl::UnavailableError(absl::StrCat("NVML does not start: ", opened->ErrorText(result)));
  }
  return std::unique_ptr<Nvml>(new Nvml(std::move(opened)));
}

absl::StatusOr<GpuReading> Nvml::Read(const std::string& pci_bus_id) const {
  const Library& nvml = *library_;
  Device device = nullptr;
  if (const Result result = nvml.by_pci_bus_id(pci_bus_id.c_str(), &device); result != kSuccess) {
    return absl::NotFoundError(
        absl::StrCat("NVML has no device at ", pci_bus_id, ": ", nvml.ErrorText(result)));
  }
  GpuReading reading;
  Library::Memory memory = {};
  if (nvml.memory != nullptr && nvml.memory(device, &memory) == kSuccess) {
    reading.memory_used_bytes = static_cast<int64_t>(memory.used);
    reading.memory_total_bytes = static_cast<int64_t>(memory.total);
  }
  Library::Utilisation utilisation = {};
  if (nvml.utilisation != nullptr && nvml.utilisation(device, &utilisation) == kSuccess) {
    reading.compute_utilisation = utilisation.gpu / 100.0;
    reading.memory_utilisation = utilisation.memory / 100.0;
  }
  unsigned value = 0;
  if (nvml.temperature != nullptr &&
      nvml.temperature(device, kTemperatureOfGpu, &value) == kSuccess) {
    reading.temperature_celsius = value;
  }
  if (nvml.power_milliwatts != nullptr && nvml.power_milliwatts(device, &value) == kSuccess) {
    reading.power_watts = value / 1000.0;
  }
  unsigned long long errors = 0;
  if (nvml.ecc_errors != nullptr) {
    if (nvml.ecc_errors(device, kCorrected, kSinceDriverLoad, &errors) == kSuccess) {
      reading.ecc_corrected_errors = static_cast<int64_t>(errors);
    }
    if (nvml.ecc_errors(device, kUncorrected, kSinceDriverLoad, &errors) == kSuccess) {
      reading.ecc_uncorrected_errors = static_cast<int64_t>(errors);
    }
  }
  return reading;
}

}  // namespace sconce
