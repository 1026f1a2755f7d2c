// A libcuda.so.1 for a machine without a GPU: the little of the driver's interface by which CUDA's
// runtime finds out that it cannot be used. FAKE_DRIVER_VERSION is the CUDA it says it is for.
#include <dlfcn.h>

#include <cstdint>

namespace {
constexpr int kSuccess = 0, kNoDevice = 100, kNotFound = 500;
}

extern "C" {

int cuInit(unsigned) { return kNoDevice; }

int cuDriverGetVersion(int* version) {
  *version = FAKE_DRIVER_VERSION;
  return kSuccess;
}

int cuDeviceGetCount(int*) { return kNoDevice; }

// `status` may be null.
int cuGetProcAddress_v2(const char* symbol, void** function, int, uint64_t, int* status) {
  *function = dlsym(RTLD_DEFAULT, symbol);
  if (status != nullptr) *status = *function == nullptr ? 1 : 0;
  return *function == nullptr ? kNotFound : kSuccess;
}

int cuGetProcAddress(const char* symbol, void** function, int version, uint64_t flags) {
  return cuGetProcAddress_v2(symbol, function, version, flags, nullptr);
}

}  // extern "C"
