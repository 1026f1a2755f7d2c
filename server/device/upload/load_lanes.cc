#include "server/device/upload/load_lanes.h"

#include <ATen/DeviceAccelerator.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <utility>

#include "server/device/torch_errors.h"

namespace sconce {

LoadLanes::Hold::Hold(LoadLanes* lanes, std::vector<c10::Device> devices)
    : lanes_(lanes), devices_(std::move(devices)) {
  MutexLock lock(&lanes_->mutex_);
  // All at once: two loads that each hold what the other waits for would wait for ever.
  const auto is_free = [&] {
    return !lanes_->returning_ &&
           std::none_of(devices_.begin(), devices_.end(),
                        [&](c10::Device device) { return lanes_->lanes_[device.index()].taken; });
  };
  while (!is_free()) lanes_->changed_.Wait(&lanes_->mutex_);
  for (const c10::Device device : devices_) lanes_->lanes_[device.index()].taken = true;
  lanes_->taken_ += devices_.size();
}

LoadLanes::Hold::~Hold() { lanes_->Release(devices_); }

c10::Stream LoadLanes::Hold::StreamOf(c10::Device device) const {
  MutexLock lock(&lanes_->mutex_);
  std::optional<c10::Stream>& stream = lanes_->lanes_[device.index()].stream;
  if (!stream.has_value()) {
    stream = c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device);
  }
  return *stream;
}

void LoadLanes::Release(const std::vector<c10::Device>& devices) {
  bool return_now = false;
  {
    MutexLock lock(&mutex_);
    for (const c10::Device device : devices) lanes_[device.index()].taken = false;
    taken_ -= devices.size();
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
