// The memory of the simulated devices, and pinned host memory: where it comes from, who still uses
// it when it is freed, and how much of it there is. For the other files of this folder;
// thread-safe.
//
// A device's memory is one memory file mapped twice: without access, which is what tensors point
// to, and writable, which is what kernels use.

#ifndef SCONCE_TESTS_SUPPORT_SIMDEVICE_MEMORY_H_
#define SCONCE_TESTS_SUPPORT_SIMDEVICE_MEMORY_H_

#include <ATen/core/CachingHostAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Stream.h>

#include <cstddef>

namespace sconce::simdevice {

void StartMemory(int devices);

c10::DeviceAllocator* DeviceMemoryAllocator();
at::HostAllocator* PinnedMemoryAllocator();

// Where kernels find what a tensor's pointer means. Null stays null.
std::byte* KernelView(const void* device_pointer);

// The device whose memory this is; throws if it is none's.
c10::Device DeviceOfPointer(const void* pointer);
bool IsPinned(const void* pointer);

// The memory's part of Reset() in simdevice.h.
void ResetMemory();

}  // namespace sconce::simdevice

#endif  // SCONCE_TESTS_SUPPORT_SIMDEVICE_MEMORY_H_
