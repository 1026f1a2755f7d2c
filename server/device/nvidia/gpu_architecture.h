// Which GPUs code runs on that was compiled for a list of architectures. A pure function, free of
// CUDA, callable from any thread.

#ifndef SCONCE_SERVER_DEVICE_NVIDIA_GPU_ARCHITECTURE_H_
#define SCONCE_SERVER_DEVICE_NVIDIA_GPU_ARCHITECTURE_H_

#include <string_view>

namespace sconce {

// `compiled_for` is a list such as "75,80,120": machine code for each, and PTX of the last. Machine
// code of compute capability X.y runs on X.z where z >= y, PTX on whatever is not older than it.
bool IsArchitectureCovered(std::string_view compiled_for, int major, int minor);

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_NVIDIA_GPU_ARCHITECTURE_H_
