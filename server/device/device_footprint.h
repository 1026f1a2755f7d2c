// What a version takes of one device's memory, as measured when it was loaded. A value type, free
// of torch.

#ifndef SCONCE_SERVER_DEVICE_DEVICE_FOOTPRINT_H_
#define SCONCE_SERVER_DEVICE_DEVICE_FOOTPRINT_H_

#include <cstdint>
#include <string>

namespace sconce {

struct DeviceFootprint {
  std::string device;         // "cuda:0"
  int64_t weights_bytes = 0;  // with the constants of the network
  // The most that batches took at a time; 0 on the CPU, where it is not measured.
  int64_t workspace_bytes = 0;
  int64_t graphs_bytes = 0;
  // Page-locked memory of the host, which is none of the device's.
  int64_t staging_bytes = 0;

  int64_t on_device_bytes() const { return weights_bytes + workspace_bytes + graphs_bytes; }
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_DEVICE_FOOTPRINT_H_
