// What libsconce_cuda.so, the CUDA half of the server, gives to the rest. Loading the library
// registers CUDA with LibTorch. C linkage, because the functions are found by name
// (server/device/nvidia/cuda_loader.cc).

#ifndef SCONCE_SERVER_DEVICE_CUDA_CUDA_MODULE_H_
#define SCONCE_SERVER_DEVICE_CUDA_CUDA_MODULE_H_

#include <cstdint>

namespace sconce {
class Accelerator;
}

extern "C" {

struct SconceCudaProbe {
  int32_t device_count;
  int32_t driver_version;   // 13000 = 13.0; 0 without a driver
  int32_t runtime_version;  // of the toolkit this was built with
  char error[256];          // empty if devices can be used
};

// Says what can be used.
void SconceProbeCuda(SconceCudaProbe* probe);

// The process's one accelerator of type CUDA. REQUIRES: SconceProbeCuda found devices.
const sconce::Accelerator* SconceCudaAccelerator();

struct SconceCudaDevice {
  char name[256];
  char pci_bus_id[32];  // "0000:3b:00.0"; empty where it is unknown
  int32_t capability_major;
  int32_t capability_minor;
  int64_t total_bytes;
  int64_t free_bytes;  // -1 where the device does not say
  int32_t is_covered;  // whether our kernels are compiled for its architecture
  // What LibTorch says when it is to compute on the device; empty if it can.
  char torch_error[256];
};

// Describes a device, and computes a little on it. REQUIRES: 0 <= index < device_count.
void SconceDescribeCudaDevice(int32_t index, SconceCudaDevice* device);

// The architectures our kernels are compiled for: "75,80,90"; of the last there is PTX, too.
const char* SconceCudaArchitectures();

}  // extern "C"

#endif  // SCONCE_SERVER_DEVICE_CUDA_CUDA_MODULE_H_
