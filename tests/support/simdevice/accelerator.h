// The simulated devices as the server knows accelerators (server/device/accelerator.h): they
// capture graphs and open shared memory. For test binaries that link server/device.

#ifndef SCONCE_TESTS_SUPPORT_SIMDEVICE_ACCELERATOR_H_
#define SCONCE_TESTS_SUPPORT_SIMDEVICE_ACCELERATOR_H_

#include <c10/core/Device.h>

#include <cstdint>

namespace sconce::simdevice {

// REQUIRES: called once, after Start. Without `graphs`, Capture says that there are none.
void RegisterSimAccelerator(bool graphs = true);

// How often a captured graph was replayed.
int64_t GraphReplays(c10::Device device);

}  // namespace sconce::simdevice

#endif  // SCONCE_TESTS_SUPPORT_SIMDEVICE_ACCELERATOR_H_
