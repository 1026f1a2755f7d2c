// simdevice: an accelerator that is simulated on the CPU, so that device-generic code runs for real
// in tests on machines without a GPU. LibTorch knows it as "sim" ("sim:0", "sim:1"): tensors and
// modules go there with to(), streams and events are c10::Stream and c10::Event. It behaves as CUDA
// does where mistakes are made:
//
//   - Work is queued on streams and done later, each stream by a thread of its own. Nothing orders
//     two streams but events.
//   - Device memory cannot be touched by the host: reading a data_ptr() is a SIGSEGV.
//   - Freed memory is overwritten with NaN once the stream it was allocated on, and those told by
//     record_stream, have come so far. Fresh memory is NaN, too.
//   - A copy from pinned memory reads it when the stream gets there, one from pageable memory at
//     the call. A copy to pageable memory is over when the call returns.
//   - Memory is limited, and a fault in queued work surfaces at a later call and stays.
//
// Operators give the CPU's answers bit for bit; random ones draw from the CPU's generator when
// their stream gets there. What it cannot imitate: everything of CUDA's own (graphs, kernels,
// NCCL), reduced precision, the caching allocator's reserve, speed.
//
// For test binaries only: LibTorch prefers it to any other accelerator once it is there. Functions
// here are thread-safe; they are the test's control.

#ifndef SCONCE_TESTS_SUPPORT_SIMDEVICE_SIMDEVICE_H_
#define SCONCE_TESTS_SUPPORT_SIMDEVICE_SIMDEVICE_H_

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <functional>
#include <string>

namespace sconce::simdevice {

// Registers the accelerator with `devices` devices. Call it once, before anything else asks
// LibTorch for an accelerator. Work on streams takes over the number of compute threads that is set
// then.
void Start(int devices);

c10::Device Device(int index);

// A stream that the caller alone uses, as long as no more than 32 per device are asked for.
c10::Stream NewStream(c10::Device device);

// Nothing queued on `stream` begins after Hold has returned, until Release. Waiting on the host for
// a stream that is held never ends.
void Hold(c10::Stream stream);
void Release(c10::Stream stream);

// The same for every stream of the device, those that come later included.
void Hold(c10::Device device);
void Release(c10::Device device);

// Waits until `stream` has done what it may; whether there is more, which is held or waits for an
// event.
bool IsBlocked(c10::Stream stream);

// Whether a thread waits for work of the device, such as in synchronize() of a stream or an event.
bool IsHostWaiting(c10::Device device);

// Queues `body` as a kernel; what it throws becomes a fault of the device. It runs on the stream's
// thread and must not wait for the device.
void Launch(c10::Stream stream, std::function<void()> body);

// What may be allocated at a time. Memory whose tensor is gone no longer counts, even if queued
// work still uses it, so that a limit is hit at the same place in every run.
void LimitMemory(c10::Device device, int64_t bytes);
void LimitPinnedMemory(int64_t bytes);

// The n-th allocation from now on, 1 being the next, is out of memory.
void FailAllocation(c10::Device device, int64_t n);
void FailPinnedAllocation(int64_t n);

// The n-th kernel or copy queued from now on, 1 being the next, breaks the device when it is run:
// it and all that follows is not done, and every later call for the device throws
// c10::AcceleratorError. Counted when queued, so that the same one is hit in every run.
void FailKernel(c10::Device device, int64_t n);

struct Statistics {
  int64_t live_bytes = 0;  // of tensors that are there
  int64_t peak_bytes = 0;
  int64_t allocations = 0;
  int64_t kernels = 0;         // queued, copies not included
  int64_t copies = 0;          // queued, from, to or within the device
  int64_t emptied_caches = 0;  // calls of at::accelerator::emptyCache
};
Statistics StatisticsOf(c10::Device device);

// Bytes of pinned host memory whose tensors are there, and how often some was allocated.
int64_t PinnedBytes();
int64_t PinnedAllocations();

// Memory of a device that another process owns and shares: it takes away from what there is, but is
// not counted as this process's. `Share` gives the handle by which Accelerator::OpenShared opens
// it, 64 bytes as CUDA's. After `Unshare` it is there for as long as it is open somewhere, and can
// be opened no more. The others throw c10::Error where there is no such handle or no such byte.
std::string Share(c10::Device device, int64_t bytes);
void Unshare(const std::string& handle);
void WriteShared(const std::string& handle, int64_t offset, const std::string& bytes);
std::string ReadShared(const std::string& handle, int64_t offset, int64_t bytes);

// Releases every stream, waits for all that is queued, and takes back limits, faults and what was
// to fail. Statistics go on. Unlike CUDA's, these devices recover from a fault.
void Reset();

}  // namespace sconce::simdevice

#endif  // SCONCE_TESTS_SUPPORT_SIMDEVICE_SIMDEVICE_H_
