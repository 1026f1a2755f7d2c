// The one function of libsconce_cuda.so, the CUDA half of the server. Loading the library registers
// CUDA with LibTorch; the function says what can be used. C linkage, because it is found by name.

#ifndef SCONCE_SERVER_DEVICE_CUDA_CUDA_MODULE_H_
#define SCONCE_SERVER_DEVICE_CUDA_CUDA_MODULE_H_

#include <cstdint>

extern "C" {

struct SconceCudaProbe {
  int32_t device_count;
  int32_t driver_version;   // 13000 = 13.0; 0 without a driver
  int32_t runtime_version;  // of the toolkit this was built with
  char error[256];          // empty if devices can be used
};

void SconceProbeCuda(SconceCudaProbe* probe);

}  // extern "C"

#endif  // SCONCE_SERVER_DEVICE_CUDA_CUDA_MODULE_H_
