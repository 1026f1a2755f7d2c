#include "server/device/upload/load_lanes.h"

#include <ATen/DeviceAccelerator.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <utility>

#include "server/device/torch_errors.h"

namespace sconce {

namespace {

// The CPU has no cache that a load could disturb.
size_t Accelerators(const std::vector<c10::Device>& devices) {
  return static_cast<size_t>(std::count_if(devices.begin(), devices.end(),
                                           [](c10::Device device) { return !device.is_cpu(); }));
}

bool Overlap(const std::vector<c10::Device>& a, const std::vector<c10::Device>& b) {
  return std::find_first_of(a.begin(), a.end(), b.begin(), b.end()) != a.end();
}

}  // namespace

LoadLanes::Hold::Hold(LoadLanes* lanes, std::vector<c10::Device> devices)
    : lanes_(lanes), devices_(std::move(devices)) {
  lanes_->Take(devices_);
}

LoadLanes::Hold::~Hold() { lanes_->Release(devices_); }

void LoadLanes::Hold::Yield() {
  lanes_->Release(devices_);
  lanes_->Take(devices_);
}

void LoadLanes::Take(const Devices& devices) {
  MutexLock lock(&mutex_);
  // All at once: two loads that each hold what the other waits for would wait for ever.
  waiting_.push_back(&devices);
  while (!IsTurnOf(devices)) changed_.Wait(&mutex_);
  waiting_.erase(std::find(waiting_.begin(), waiting_.end(), &devices));
  for (const c10::Device device : devices) lanes_[device.index()].taken = true;
  taken_ += Accelerators(devices);
  // Whoever waited behind for other lanes may have its turn now.
  changed_.NotifyAll();
}

bool LoadLanes::IsTurnOf(const Devices& devices) const {
  if (returning_ && Accelerators(devices) > 0) return false;
  for (const Devices* other : waiting_) {
    if (other == &devices) break;
    if (Overlap(*other, devices)) return false;
  }
  return std::none_of(devices.begin(), devices.end(), [this](c10::Device device) {
    const auto lane = lanes_.find(device.index());
    return lane != lanes_.end() && lane->second.taken;
  });
}

c10::Stream LoadLanes::Hold::StreamOf(c10::Device device) const {
  MutexLock lock(&lanes_->mutex_);
  std::optional<c10::Stream>& stream = lanes_->lanes_[device.index()].stream;
  if (!stream.has_value()) {
    stream = c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
  }
  return *stream;
}

void LoadLanes::Release(const Devices& devices) {
  bool return_now = false;
  {
    MutexLock lock(&mutex_);
    for (const c10::Device device : devices) lanes_[device.index()].taken = false;
    taken_ -= Accelerators(devices);
    return_now = return_wanted_ && taken_ == 0;
  }
  changed_.NotifyAll();
  if (return_now) ReturnCaches();
}

void LoadLanes::ReturnCaches() {
  {
    MutexLock lock(&mutex_);
    // Whoever is at it, or ends the last load, does it.
    return_wanted_ = true;
    if (taken_ > 0 || returning_) return;
    returning_ = true;
    return_wanted_ = false;
  }
  // A device that is lost has nothing to give back.
  static_cast<void>(Guarded("devices", [] {
    at::accelerator::emptyCache();
    return absl::OkStatus();
  }));
  {
    MutexLock lock(&mutex_);
    returning_ = false;
  }
  changed_.NotifyAll();
}

}  // namespace sconce
