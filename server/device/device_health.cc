#include "server/device/device_health.h"

#include <utility>

namespace sconce {

void DeviceHealth::SetObserver(Observer observer) {
  MutexLock lock(&mutex_);
  observer_ = std::move(observer);
}

void DeviceHealth::ReportLost(const std::string& device, const std::string& reason) {
  Observer observer;
  {
    MutexLock lock(&mutex_);
    if (!lost_.emplace(device, reason).second) return;
    observer = observer_;
  }
  if (observer) observer(device, reason);
}

std::optional<std::string> DeviceHealth::LostBecause(const std::string& device) const {
  MutexLock lock(&mutex_);
  const auto found = lost_.find(device);
  if (found == lost_.end()) return std::nullopt;
  return found->second;
}

}  // namespace sconce
