// How LibTorch comes to know the simulated devices: their guard (current device and stream,
// events), their hooks, and the start that registers everything.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Exception.h>

#include <chrono>
#include <memory>

#include "tests/support/simdevice/memory.h"
#include "tests/support/simdevice/operators.h"
#include "tests/support/simdevice/simdevice.h"
#include "tests/support/simdevice/streams.h"

namespace sconce::simdevice {
namespace {

// What a c10::Event points to: the marker of the last record.
struct RecordedEvent {
  std::shared_ptr<Marker> marker;
  c10::DeviceIndex device;
};

const RecordedEvent& Recorded(void* event) { return *static_cast<RecordedEvent*>(event); }

class Guard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return c10::kPrivateUse1; }

  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device previous = getDevice();
    SetCurrentDevice(device.index());
    return previous;
  }
  c10::Device getDevice() const override { return Device(CurrentDevice()); }
  void setDevice(c10::Device device) const override { SetCurrentDevice(device.index()); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    SetCurrentDevice(device.index());
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return static_cast<c10::DeviceIndex>(DeviceCount());
  }

  c10::Stream getStream(c10::Device device) const override { return CurrentStream(device.index()); }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return StreamAt(device.has_index() ? device.index() : CurrentDevice(), 0);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return StreamFromPool(device.index());
  }
  c10::Stream getNewStream(c10::Device device, int) const override {
    return StreamFromPool(device.index());
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    return ExchangeCurrentStream(stream);
  }
  bool queryStream(const c10::Stream& stream) const override {
    ThrowIfBroken(stream.device_index());
    return IsIdle(stream);
  }
  void synchronizeStream(const c10::Stream& stream) const override { Synchronize(stream); }
  void synchronizeDevice(const c10::DeviceIndex device) const override {
    SynchronizeDevice(device);
  }

  void record(void** event, const c10::Stream& stream, const c10::DeviceIndex recorded_on,
              const c10::EventFlag) const override {
    TORCH_CHECK(recorded_on == -1 || recorded_on == stream.device_index(), "Event device index ",
                static_cast<int>(recorded_on), " does not match recording stream's device index ",
                static_cast<int>(stream.device_index()), ".");
    ThrowIfBroken(stream.device_index());
    if (*event == nullptr) *event = new RecordedEvent;
    *static_cast<RecordedEvent*>(*event) = {Mark(stream), stream.device_index()};
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<RecordedEvent*>(event);
  }
  void block(void* event, const c10::Stream& stream) const override {
    ThrowIfBroken(stream.device_index());
    BlockUntil(stream, Recorded(event).marker);
  }
  bool queryEvent(void* event) const override {
    ThrowIfBroken(Recorded(event).device);
    return IsPassed(*Recorded(event).marker);
  }
  void synchronizeEvent(void* event) const override {
    WaitFor(*Recorded(event).marker);
    ThrowIfBroken(Recorded(event).device);
  }
  double elapsedTime(void* from, void* to, const c10::DeviceIndex) const override {
    return std::chrono::duration<double, std::milli>(Recorded(to).marker->time -
                                                     Recorded(from).marker->time)
        .count();
  }
  void recordDataPtrOnStream(const c10::DataPtr& data, const c10::Stream& stream) const override {
    DeviceMemoryAllocator()->recordStream(data, stream);
  }
};

class Hooks final : public at::PrivateUse1HooksInterface {
 public:
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override {
    return static_cast<c10::DeviceIndex>(DeviceCount());
  }
  void setCurrentDevice(c10::DeviceIndex device) const override { SetCurrentDevice(device); }
  c10::DeviceIndex getCurrentDevice() const override { return CurrentDevice(); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex device) const override {
    const c10::DeviceIndex previous = CurrentDevice();
    SetCurrentDevice(device);
    return previous;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex device) const override {
    return exchangeDevice(device);
  }
  // Random operators are the CPU's.
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  c10::Device getDeviceFromPtr(void* data) const override { return DeviceOfPointer(data); }
  bool isPinnedPtr(const void* data) const override { return IsPinned(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return PinnedMemoryAllocator(); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    ResizeStorage(storage, bytes);
  }
};

}  // namespace

c10::Device Device(int index) {
  return c10::Device(c10::kPrivateUse1, static_cast<c10::DeviceIndex>(index));
}

void Start(int devices) {
  StartStreams(devices);
  StartMemory(devices);
  c10::register_privateuse1_backend("sim");
  static const c10::impl::DeviceGuardImplRegistrar guard(c10::kPrivateUse1, new Guard);
  c10::SetAllocator(c10::kPrivateUse1, DeviceMemoryAllocator());
  at::setHostAllocator(c10::kPrivateUse1, PinnedMemoryAllocator());
  at::RegisterPrivateUse1HooksInterface(new Hooks);
  RegisterKernels();
  RegisterFallback();
}

void Reset() {
  ResetStreams();
  ResetMemory();
}

}  // namespace sconce::simdevice
