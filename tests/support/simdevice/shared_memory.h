// Memory of the simulated devices that other processes share. For accelerator.cc; thread-safe.

#ifndef SCONCE_TESTS_SUPPORT_SIMDEVICE_SHARED_MEMORY_H_
#define SCONCE_TESTS_SUPPORT_SIMDEVICE_SHARED_MEMORY_H_

#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <string>

namespace sconce::simdevice {

struct SharedMemory {
  c10::Device device;
  int64_t size_bytes;
  std::shared_ptr<void> address;  // as tensors on the device see it
};

// Null where the handle is none.
std::unique_ptr<SharedMemory> FindShared(const std::string& handle);

}  // namespace sconce::simdevice

#endif  // SCONCE_TESTS_SUPPORT_SIMDEVICE_SHARED_MEMORY_H_
