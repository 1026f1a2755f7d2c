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
#include <cstdint>
#include <memory>

namespace sconce::simdevice {

void StartMemory(int devices);

c10::DeviceAllocator* DeviceMemoryAllocator();
at::HostAllocator* PinnedMemoryAllocator();

// Where kernels find what a tensor's pointer means. Null stays null.
std::byte* KernelView(const void* device_pointer);

// The device whose memory this is; throws if it is none's.
c10::Device DeviceOfPointer(const void* pointer);
bool IsPinned(const void* pointer);

// Memory that recorded work uses and will use again: what the calling thread allocates on a device
// while it records stays until the work is gone, though its tensors are not there any more.
// Tensors that come and go while it is recorded share blocks, as the work is done in order; so do
// recordings beside one another.
class GraphMemory {
 public:
  virtual ~GraphMemory() = default;
  // Blocks that it did not find beside it.
  virtual int64_t size_bytes() const = 0;
};
// REQUIRES: around BeginRecording and EndRecording. `beside` may be null.
std::unique_ptr<GraphMemory> BeginGraphMemory(const GraphMemory* beside);
void EndGraphMemory(GraphMemory* graph);

// Memory of a device that is another process's: not counted as this one's.
c10::DataPtr AllocateForeign(c10::Device device, size_t bytes);

// The memory's part of Reset() in simdevice.h.
void ResetMemory();

}  // namespace sconce::simdevice

#endif  // SCONCE_TESTS_SUPPORT_SIMDEVICE_MEMORY_H_
