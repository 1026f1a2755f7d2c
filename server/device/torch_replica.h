// TorchReplica: a network on one device, run by LibTorch. Device-generic: whatever LibTorch has a
// device type for, with a stream of its own where the device has streams.
//
// Several replicas on one device share one net, and so its weights. Threads as in Replica.

#ifndef SCONCE_SERVER_DEVICE_TORCH_REPLICA_H_
#define SCONCE_SERVER_DEVICE_TORCH_REPLICA_H_

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/device/replica.h"

namespace sconce {

namespace models {
class Net;
}

class TorchReplica : public Replica {
 public:
  // REQUIRES: `net` is loaded, in evaluation mode, with its tensors on `device`.
  TorchReplica(std::shared_ptr<const models::Net> net, c10::Device device);

  const std::string& device() const override { return device_name_; }
  absl::StatusOr<HostTensor> AllocateStaging(int64_t size_bytes) override;
  // Errors: RESOURCE_EXHAUSTED out of memory, INTERNAL anything else LibTorch throws.
  absl::StatusOr<std::vector<HostTensor>> Run(absl::Span<const HostTensor> inputs) override;

 private:
  const std::shared_ptr<const models::Net> net_;
  const c10::Device device_;
  const std::string device_name_;
  std::optional<c10::Stream> stream_;  // none on the CPU
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_TORCH_REPLICA_H_
