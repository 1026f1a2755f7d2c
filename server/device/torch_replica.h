// TorchReplica: a network on one device, run by LibTorch. Device-generic: whatever LibTorch has a
// device type for, with a stream of its own where the device has streams.
//
// Several replicas on one device share one net, and so its weights. Threads as in Replica.

#ifndef SCONCE_SERVER_DEVICE_TORCH_REPLICA_H_
#define SCONCE_SERVER_DEVICE_TORCH_REPLICA_H_

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/device/device_health.h"
#include "server/device/execution_options.h"
#include "server/device/replica.h"

namespace sconce {

namespace models {
class Net;
}

class TorchReplica : public Replica {
 public:
  // `health` may be null and outlives the replica.
  // REQUIRES: `net` is loaded, in evaluation mode, with its tensors on `device` in the precision
  // and memory format of `options`.
  TorchReplica(std::shared_ptr<const models::Net> net, c10::Device device,
               const ExecutionOptions& options, DeviceHealth* health);

  const std::string& device() const override { return device_name_; }
  int depth() const override { return 1; }
  int64_t max_rows() const override { return std::numeric_limits<int64_t>::max(); }
  int numa_node() const override { return -1; }
  absl::Status health() const override { return absl::OkStatus(); }
  absl::StatusOr<std::vector<HostTensor>> Stage(absl::Span<const int64_t> size_bytes) override;
  absl::StatusOr<std::unique_ptr<RunningBatch>> Launch(BatchInput batch) override;

 private:
  const std::shared_ptr<const models::Net> net_;
  const c10::Device device_;
  const std::string device_name_;
  std::optional<c10::Stream> stream_;  // none on the CPU
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_TORCH_REPLICA_H_
