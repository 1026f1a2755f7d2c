// DeviceHealth: which devices are lost. A device that reported a fault which stays (CUDA calls it
// sticky: no later call on it succeeds before the process ends) is lost for good.
//
// Thread-safe. Owned by App; outlives the replicas, which report here.

#ifndef SCONCE_SERVER_DEVICE_DEVICE_HEALTH_H_
#define SCONCE_SERVER_DEVICE_DEVICE_HEALTH_H_

#include <functional>
#include <map>
#include <optional>
#include <string>

#include "server/base/mutex.h"

namespace sconce {

class DeviceHealth {
 public:
  using Observer = std::function<void(const std::string& device, const std::string& reason)>;

  // `observer` is called once for each device that is lost, on the thread that finds out, without a
  // lock held. REQUIRES: called before the first report; one observer at most.
  void SetObserver(Observer observer);

  // `device`: "cuda:0". What comes after the first report of a device changes nothing.
  void ReportLost(const std::string& device, const std::string& reason);

  // Why the device is lost; none while it works.
  std::optional<std::string> LostBecause(const std::string& device) const;

 private:
  mutable Mutex mutex_;
  Observer observer_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> lost_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_DEVICE_HEALTH_H_
