// The streams of the simulated devices: queues of work, each done in order by a thread of its own;
// markers, which events are made of; and the fault that work may leave a device with. For the other
// files of this folder; thread-safe. Everything here lives until the process ends, since its
// threads do.

#ifndef SCONCE_TESTS_SUPPORT_SIMDEVICE_STREAMS_H_
#define SCONCE_TESTS_SUPPORT_SIMDEVICE_STREAMS_H_

#include <c10/core/Stream.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace sconce::simdevice {

// CUDA's figure: streams are handed out again after that many.
constexpr int kPoolStreams = 32;
constexpr int kMaxDevices = 8;

void StartStreams(int devices);
int DeviceCount();

// The calling thread's; device 0 and stream 0 at first.
c10::DeviceIndex CurrentDevice();
void SetCurrentDevice(c10::DeviceIndex device);
c10::Stream CurrentStream(c10::DeviceIndex device);
c10::Stream ExchangeCurrentStream(c10::Stream stream);

c10::Stream StreamAt(c10::DeviceIndex device, c10::StreamId id);
c10::Stream StreamFromPool(c10::DeviceIndex device);

enum class WorkKind { kKernel, kCopy };

// Queues work that a fault skips. Throws c10::AcceleratorError if the device is broken already.
// What `body` throws breaks the device.
void Enqueue(c10::Stream stream, WorkKind kind, std::function<void()> body);

// Queues what is done even on a broken device: `body` must not throw.
void EnqueueAlways(c10::Stream stream, std::function<void()> body);

// A point in a stream's queue.
struct Marker {
  c10::DeviceIndex device = 0;
  std::chrono::steady_clock::time_point time;  // when it was passed
  bool passed = false;
  std::vector<c10::Stream> blocked;  // to be woken
};

std::shared_ptr<Marker> Mark(c10::Stream stream);
// Lets `stream` go no further before the marker is passed.
void BlockUntil(c10::Stream stream, std::shared_ptr<Marker> marker);
bool IsPassed(const Marker& marker);
void WaitFor(const Marker& marker);

// What the calling thread queues on `stream` from here on is kept instead, as CUDA captures graphs
// in thread-local mode: to wait for a device, or for an event on the stream, is refused meanwhile
// and spoils the recording. REQUIRES: the thread records nothing; not the default stream.
void BeginRecording(c10::Stream stream);
struct Recording {
  std::vector<std::pair<WorkKind, std::function<void()>>> work;
  bool spoiled = false;
};
Recording EndRecording();
bool IsRecording();

bool IsIdle(c10::Stream stream);
// Both wait, then throw if the device is broken.
void Synchronize(c10::Stream stream);
void SynchronizeDevice(c10::DeviceIndex device);

void ThrowIfBroken(c10::DeviceIndex device);

struct WorkCount {
  int64_t kernels = 0;
  int64_t copies = 0;
};
WorkCount CountWork(c10::DeviceIndex device);

// The streams' part of Reset() in simdevice.h.
void ResetStreams();

}  // namespace sconce::simdevice

#endif  // SCONCE_TESTS_SUPPORT_SIMDEVICE_STREAMS_H_
