#include "tests/support/simdevice/streams.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <array>
#include <deque>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "server/base/mutex.h"
#include "tests/support/simdevice/simdevice.h"

namespace sconce::simdevice {
namespace {

constexpr int kStreamsPerDevice = 1 + kPoolStreams;  // the default stream is the first

struct Work {
  std::function<void()> body;
  std::shared_ptr<Marker> wait_for;  // begins once this is passed
  std::shared_ptr<Marker> marker;    // passed when this is done
  bool skipped_when_broken = false;
  bool breaks_device = false;
};

// One lock for all of it: these are queues of a test, and events tie any stream to any other. This
// and the devices are never destroyed, since the threads use them until the process is gone.
Mutex& mutex = *new Mutex;
CondVar& progress =
    *new CondVar;  // the host waits for a marker, or for a stream that has nothing running

struct Queue {
  c10::DeviceIndex device = 0;
  std::deque<Work> work;
  bool has_thread = false;
  bool running = false;
  bool held = false;
  CondVar wake;
};

struct DeviceState {
  std::array<Queue, kStreamsPerDevice> queues;
  bool held = false;
  int next_pool_stream = 0;
  std::string fault;                // empty: none
  int64_t kernels_until_fault = 0;  // 0: never
  int64_t kernels = 0;
  int64_t copies = 0;
  int host_waits = 0;  // threads in WaitFor
};

std::array<DeviceState, kMaxDevices>& devices = *new std::array<DeviceState, kMaxDevices>;
int device_count = 0;

thread_local c10::DeviceIndex current_device = 0;
thread_local std::array<c10::StreamId, kMaxDevices> current_stream = {};

struct ThreadRecording {
  c10::Stream stream;
  Recording recording;
};
thread_local std::optional<ThreadRecording> recording;

[[noreturn]] void ThrowError(int code, const std::string& what) {
  throw c10::AcceleratorError({__func__, __FILE__, __LINE__}, code,
                              "sim error: " + what +
                                  "\nsim kernel errors might be asynchronously reported at some "
                                  "other API call, so the stacktrace below might be incorrect.");
}

void RefuseWhileRecording() {
  if (!recording.has_value()) return;
  recording->recording.spoiled = true;
  constexpr int kCaptureUnsupported = 900;  // as cudaErrorStreamCaptureUnsupported
  ThrowError(kCaptureUnsupported, "operation not permitted when stream is capturing");
}

bool IsRecordedOn(c10::Stream stream) {
  return recording.has_value() && recording->stream == stream;
}

Queue& QueueOf(c10::Stream stream) { return devices[stream.device_index()].queues[stream.id()]; }

bool MayBegin(const Queue& queue) {
  if (queue.work.empty() || queue.held || devices[queue.device].held) return false;
  const std::shared_ptr<Marker>& wait_for = queue.work.front().wait_for;
  return wait_for == nullptr || wait_for->passed;
}

void Break(c10::DeviceIndex device, const std::string& why) {
  MutexLock lock(&mutex);
  if (devices[device].fault.empty()) devices[device].fault = why;
}

void DoWork(const Queue& queue, const Work& work) {
  if (work.body == nullptr) return;
  if (work.breaks_device) {
    Break(queue.device, "an illegal memory access was encountered");
    return;
  }
  try {
    work.body();
  } catch (const std::exception& e) {
    const std::string what = e.what();
    Break(queue.device, "device-side assert triggered: " + what.substr(0, what.find('\n')));
  }
}

void Pass(Marker* marker) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
  marker->time = std::chrono::steady_clock::now();
  marker->passed = true;
  for (const c10::Stream stream : marker->blocked) QueueOf(stream).wake.Notify();
}

void RunQueue(Queue* queue) {
  at::init_num_threads();
  const c10::InferenceMode inference_mode;
  mutex.Lock();
  for (;;) {
    while (!MayBegin(*queue)) queue->wake.Wait(&mutex);
    Work work = std::move(queue->work.front());
    queue->work.pop_front();
    queue->running = true;
    const bool skip = work.skipped_when_broken && !devices[queue->device].fault.empty();
    mutex.Unlock();
    if (!skip) DoWork(*queue, work);
    work.body = nullptr;  // what it holds is destroyed before the stream counts as idle
    mutex.Lock();
    queue->running = false;
    if (work.marker != nullptr) Pass(work.marker.get());
    progress.NotifyAll();
  }
}

void Push(c10::Stream stream, Work work) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
  Queue& queue = QueueOf(stream);
  queue.work.push_back(std::move(work));
  if (!queue.has_thread) {
    queue.has_thread = true;
    std::thread(RunQueue, &queue).detach();
  }
  queue.wake.Notify();
}

}  // namespace

void StartStreams(int count) {
  TORCH_CHECK(device_count == 0, "simdevice: started twice");
  TORCH_CHECK(count >= 1 && count <= kMaxDevices, "simdevice: expected 1 to ", kMaxDevices,
              " devices, got ", count);
  device_count = count;
  for (int i = 0; i < count; ++i) {
    for (Queue& queue : devices[i].queues) queue.device = static_cast<c10::DeviceIndex>(i);
  }
}

int DeviceCount() { return device_count; }

c10::DeviceIndex CurrentDevice() { return current_device; }

void SetCurrentDevice(c10::DeviceIndex device) {
  TORCH_CHECK(device >= 0 && device < device_count, "sim error: invalid device ordinal ",
              static_cast<int>(device), ", there are ", device_count, " devices");
  current_device = device;
}

c10::Stream StreamAt(c10::DeviceIndex device, c10::StreamId id) {
  return c10::Stream(c10::Stream::UNSAFE, Device(device), id);
}

c10::Stream CurrentStream(c10::DeviceIndex device) {
  if (device < 0) device = current_device;
  return StreamAt(device, current_stream[device]);
}

c10::Stream ExchangeCurrentStream(c10::Stream stream) {
  const c10::Stream previous = CurrentStream(stream.device_index());
  current_stream[stream.device_index()] = stream.id();
  return previous;
}

c10::Stream StreamFromPool(c10::DeviceIndex device) {
  if (device < 0) device = current_device;
  MutexLock lock(&mutex);
  const int index = devices[device].next_pool_stream++ % kPoolStreams;
  return StreamAt(device, 1 + index);
}

void Enqueue(c10::Stream stream, WorkKind kind, std::function<void()> body) {
  ThrowIfBroken(stream.device_index());
  if (IsRecordedOn(stream)) {
    recording->recording.work.emplace_back(kind, std::move(body));
    return;
  }
  MutexLock lock(&mutex);
  DeviceState& device = devices[stream.device_index()];
  ++(kind == WorkKind::kCopy ? device.copies : device.kernels);
  Work work;
  work.body = std::move(body);
  work.skipped_when_broken = true;
  work.breaks_device = device.kernels_until_fault > 0 && --device.kernels_until_fault == 0;
  Push(stream, std::move(work));
}

void EnqueueAlways(c10::Stream stream, std::function<void()> body) {
  MutexLock lock(&mutex);
  Work work;
  work.body = std::move(body);
  Push(stream, std::move(work));
}

std::shared_ptr<Marker> Mark(c10::Stream stream) {
  if (IsRecordedOn(stream)) RefuseWhileRecording();
  Work work;
  work.marker = std::make_shared<Marker>();
  std::shared_ptr<Marker> marker = work.marker;
  marker->device = stream.device_index();
  MutexLock lock(&mutex);
  Push(stream, std::move(work));
  return marker;
}

void BlockUntil(c10::Stream stream, std::shared_ptr<Marker> marker) {
  if (IsRecordedOn(stream)) RefuseWhileRecording();
  MutexLock lock(&mutex);
  if (marker->passed) return;
  marker->blocked.push_back(stream);
  Work work;
  work.wait_for = std::move(marker);
  Push(stream, std::move(work));
}

void BeginRecording(c10::Stream stream) {
  TORCH_CHECK(!recording.has_value(), "simdevice: the thread records already");
  TORCH_CHECK(stream.id() != 0, "simdevice: the default stream cannot be captured");
  recording.emplace(ThreadRecording{stream, {}});
}

Recording EndRecording() {
  Recording done = std::move(recording->recording);
  recording.reset();
  return done;
}

bool IsRecording() { return recording.has_value(); }

bool IsPassed(const Marker& marker) {
  MutexLock lock(&mutex);
  return marker.passed;
}

void WaitFor(const Marker& marker) {
  RefuseWhileRecording();
  MutexLock lock(&mutex);
  ++devices[marker.device].host_waits;
  while (!marker.passed) progress.Wait(&mutex);
  --devices[marker.device].host_waits;
}

bool IsHostWaiting(c10::Device device) {
  MutexLock lock(&mutex);
  return devices[device.index()].host_waits > 0;
}

bool IsIdle(c10::Stream stream) {
  MutexLock lock(&mutex);
  const Queue& queue = QueueOf(stream);
  return queue.work.empty() && !queue.running;
}

void Synchronize(c10::Stream stream) {
  WaitFor(*Mark(stream));
  ThrowIfBroken(stream.device_index());
}

void SynchronizeDevice(c10::DeviceIndex device) {
  RefuseWhileRecording();
  std::vector<std::shared_ptr<Marker>> markers;
  for (int id = 0; id < kStreamsPerDevice; ++id) {
    const c10::Stream stream = StreamAt(device, id);
    if (!IsIdle(stream)) markers.push_back(Mark(stream));
  }
  for (const auto& marker : markers) WaitFor(*marker);
  ThrowIfBroken(device);
}

void ThrowIfBroken(c10::DeviceIndex device) {
  std::string fault;
  {
    MutexLock lock(&mutex);
    fault = devices[device].fault;
  }
  if (fault.empty()) return;
  constexpr int kIllegalAddress = 700;  // as cudaErrorIllegalAddress
  ThrowError(kIllegalAddress, fault);
}

c10::Stream NewStream(c10::Device device) { return StreamFromPool(device.index()); }

void Hold(c10::Stream stream) {
  MutexLock lock(&mutex);
  Queue& queue = QueueOf(stream);
  queue.held = true;
  while (queue.running) progress.Wait(&mutex);
}

void Release(c10::Stream stream) {
  MutexLock lock(&mutex);
  QueueOf(stream).held = false;
  QueueOf(stream).wake.Notify();
}

void Hold(c10::Device device) {
  MutexLock lock(&mutex);
  DeviceState& state = devices[device.index()];
  state.held = true;
  for (const Queue& queue : state.queues) {
    while (queue.running) progress.Wait(&mutex);
  }
}

void Release(c10::Device device) {
  MutexLock lock(&mutex);
  DeviceState& state = devices[device.index()];
  state.held = false;
  for (Queue& queue : state.queues) queue.wake.Notify();
}

bool IsBlocked(c10::Stream stream) {
  MutexLock lock(&mutex);
  const Queue& queue = QueueOf(stream);
  while (queue.running || MayBegin(queue)) progress.Wait(&mutex);
  return !queue.work.empty();
}

void Launch(c10::Stream stream, std::function<void()> body) {
  Enqueue(stream, WorkKind::kKernel, std::move(body));
}

void FailKernel(c10::Device device, int64_t n) {
  MutexLock lock(&mutex);
  devices[device.index()].kernels_until_fault = n;
}

WorkCount CountWork(c10::DeviceIndex device) {
  MutexLock lock(&mutex);
  return {devices[device].kernels, devices[device].copies};
}

void ResetStreams() {
  for (int i = 0; i < device_count; ++i) {
    Release(Device(i));
    for (int id = 0; id < kStreamsPerDevice; ++id) {
      Release(StreamAt(static_cast<c10::DeviceIndex>(i), id));
    }
  }
  for (int i = 0; i < device_count; ++i) {
    try {
      SynchronizeDevice(static_cast<c10::DeviceIndex>(i));
    } catch (const c10::AcceleratorError&) {
      // This is what is being reset.
    }
    MutexLock lock(&mutex);
    devices[i].fault.clear();
    devices[i].kernels_until_fault = 0;
  }
}

}  // namespace sconce::simdevice
