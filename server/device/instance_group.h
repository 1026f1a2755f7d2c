// InstanceGroup: copies of a model on each of some devices, as a model's configuration has it. A
// value type, free of torch.

#ifndef SCONCE_SERVER_DEVICE_INSTANCE_GROUP_H_
#define SCONCE_SERVER_DEVICE_INSTANCE_GROUP_H_

#include <cstdint>
#include <vector>

namespace sconce {

struct InstanceGroup {
  enum class Kind {
    kAuto,  // where memory allows, on the devices the server was given
    kGpu,
    kCpu,
  };

  int32_t count = 1;
  Kind kind = Kind::kAuto;
  // By number, of the accelerators the server was given; empty: not picked out. None with kCpu.
  std::vector<int32_t> gpus;

  bool operator==(const InstanceGroup&) const = default;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_INSTANCE_GROUP_H_
