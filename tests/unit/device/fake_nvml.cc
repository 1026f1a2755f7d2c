// A library with NVML's interface and two cards: one that reports everything, at 0000:3b:00.0, and
// one that knows neither of memory errors nor of power, at 0000:af:00.0. With FAKE_NVML_OLD half of
// the functions are missing; with FAKE_NVML_BROKEN it does not start.
#include <strings.h>

namespace {

constexpr int kSuccess = 0, kNotSupported = 3, kNotFound = 6, kDriverNotLoaded = 9;

int full_card, plain_card;
int starts;

struct Memory {
  unsigned long long total, free, used;
};

struct Utilisation {
  unsigned gpu, memory;
};

}  // namespace

extern "C" {

int nvmlInit_v2() {
#ifdef FAKE_NVML_BROKEN
  return kDriverNotLoaded;
#else
  ++starts;
  return kSuccess;
#endif
}

int nvmlShutdown() {
  --starts;
  return kSuccess;
}

// For the tests: how often it was started and not shut down.
int FakeNvmlStarts() { return starts; }

const char* nvmlErrorString(int result) {
  return result == kDriverNotLoaded ? "Driver Not Loaded" : "Not Found";
}

int nvmlDeviceGetHandleByPciBusId_v2(const char* bus_id, void** device) {
  if (strcasecmp(bus_id, "0000:3b:00.0") == 0) {
    *device = &full_card;
  } else if (strcasecmp(bus_id, "0000:af:00.0") == 0) {
    *device = &plain_card;
  } else {
    return kNotFound;
  }
  return kSuccess;
}

int nvmlDeviceGetMemoryInfo(void* device, Memory* memory) {
  memory->total = device == &full_card ? 80000000000ULL : 24000000000ULL;
  memory->used = 5000000000ULL;
  memory->free = memory->total - memory->used;
  return kSuccess;
}

#ifndef FAKE_NVML_OLD
int nvmlDeviceGetUtilizationRates(void*, Utilisation* utilisation) {
  utilisation->gpu = 75;
  utilisation->memory = 30;
  return kSuccess;
}

int nvmlDeviceGetTemperature(void*, int sensor, unsigned* celsius) {
  if (sensor != 0) return kNotSupported;
  *celsius = 61;
  return kSuccess;
}

int nvmlDeviceGetPowerUsage(void* device, unsigned* milliwatts) {
  if (device == &plain_card) return kNotSupported;
  *milliwatts = 312500;
  return kSuccess;
}

int nvmlDeviceGetTotalEccErrors(void* device, int type, int counter, unsigned long long* errors) {
  if (device == &plain_card || counter != 0) return kNotSupported;
  *errors = type == 0 ? 17 : 2;
  return kSuccess;
}
#endif

}  // extern "C"
