// The simulated devices as the server knows accelerators (server/device/accelerator.h): they
// capture graphs, open shared memory and read files. For test binaries that link server/device.

#ifndef SCONCE_TESTS_SUPPORT_SIMDEVICE_ACCELERATOR_H_
#define SCONCE_TESTS_SUPPORT_SIMDEVICE_ACCELERATOR_H_

#include <c10/core/Device.h>

#include <cstdint>

namespace sconce::simdevice {

// REQUIRES: called once, after Start. Without `graphs`, Capture says that there are none.
void RegisterSimAccelerator(bool graphs = true);

// How often a captured graph was replayed.
int64_t GraphReplays(c10::Device device);

// How often the device read from a file by itself.
int64_t DirectReads(c10::Device device);
// The n-th such read of any device from now on, 1 being the next, fails; none where n is 0.
void FailDirectRead(int64_t n);

}  // namespace sconce::simdevice

#endif  // SCONCE_TESTS_SUPPORT_SIMDEVICE_ACCELERATOR_H_
