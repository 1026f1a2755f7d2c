// DeviceGauges: the metrics of the server's devices, read when somebody asks for them. The figures
// of GPUs are NVML's, where it is on the machine.
//
// Thread-safe. Owned by Server.

#ifndef SCONCE_SERVER_APP_DEVICE_GAUGES_H_
#define SCONCE_SERVER_APP_DEVICE_GAUGES_H_

#include <memory>

#include "server/base/metrics.h"
#include "server/device/device_set.h"
#include "server/device/nvidia/nvml.h"

namespace sconce {

class DeviceGauges {
 public:
  // `devices` and `metrics` outlive it.
  DeviceGauges(const DeviceSet* devices, Metrics* metrics);

  void Refresh();

 private:
  const DeviceSet* const devices_;
  Metrics* const metrics_;
  std::unique_ptr<const Nvml> nvml_;  // null without CUDA devices or without the library
};

}  // namespace sconce

#endif  // SCONCE_SERVER_APP_DEVICE_GAUGES_H_
