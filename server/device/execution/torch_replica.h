// TorchReplica: a network on one device, run by LibTorch. Device-generic: whatever LibTorch has a
// device type for, with streams of its own where the device has streams.
//
// On a device a batch goes through three streams, ordered by events: its inputs are copied in while
// the batch before computes, and its outputs are copied out while the next one does. On the CPU
// Launch computes.
//
// Several replicas on one device share one net, and so its weights. Threads as in Replica; Finish
// may run beside Stage and Launch.

#ifndef SCONCE_SERVER_DEVICE_EXECUTION_TORCH_REPLICA_H_
#define SCONCE_SERVER_DEVICE_EXECUTION_TORCH_REPLICA_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/device/device_health.h"
#include "server/device/execution/batch_graphs.h"
#include "server/device/execution/forward_pass.h"
#include "server/device/execution/output_pool.h"
#include "server/device/execution/staging_ring.h"
#include "server/device/execution_options.h"
#include "server/device/replica.h"

namespace sconce {

class TorchReplica : public Replica {
 public:
  // `health` may be null and outlives the replica.
  // REQUIRES: `net` is loaded, in evaluation mode, with its tensors on `device` in the precision
  // and memory format of `options`.
  TorchReplica(std::shared_ptr<const models::Net> net, c10::Device device,
               const ExecutionOptions& options, DeviceHealth* health);
  // REQUIRES: no batch is under way.
  ~TorchReplica() override;

  // For warm-up, before the replica is shared and while no batch is under way.
  void set_max_rows(int64_t rows) { max_rows_ = rows; }
  // Captures graphs for batches of up to as many rows as `inputs` and `outputs` have, of which only
  // dtypes and shapes matter. Where the device, the options or the network have none, batches go on
  // without, and eager_because() says why. UNAVAILABLE if the device is lost.
  absl::Status CaptureGraphs(const std::vector<HostTensor>& inputs,
                             const std::vector<HostTensor>& outputs);

  // Why batches are not replayed from graphs; empty where they are.
  const std::string& eager_because() const { return eager_because_; }
  // Gives the graphs up. REQUIRES: no batch is under way.
  void DropGraphs(std::string because);
  // Device memory of the graphs.
  int64_t graph_bytes() const { return graphs_ == nullptr ? 0 : graphs_->size_bytes(); }
  // Page-locked memory that batches pass through; complete while none is under way.
  int64_t staging_bytes() const {
    return device_.is_cpu() ? 0 : staging_.size_bytes() + outputs_.free_bytes();
  }

  const std::string& device() const override { return device_name_; }
  int depth() const override;
  int64_t max_rows() const override { return max_rows_; }
  int numa_node() const override;
  absl::Status health() const override;
  absl::StatusOr<std::vector<HostTensor>> Stage(absl::Span<const int64_t> size_bytes) override;
  absl::StatusOr<std::unique_ptr<RunningBatch>> Launch(BatchInput batch) override;

 private:
  class QueuedBatch;

  struct Streams {
    c10::Stream copy_in;
    c10::Stream compute;
    c10::Stream copy_out;
  };

  absl::StatusOr<std::unique_ptr<RunningBatch>> ComputeOnHost(const BatchInput& batch);
  // Takes `batch` once all of it is queued.
  absl::StatusOr<std::unique_ptr<RunningBatch>> Queue(BatchInput& batch);

  // On the current stream; the outputs are fresh memory.
  std::vector<at::Tensor> Compute(const std::vector<at::Tensor>& sent);

  // Waits for all that this replica has queued, for better or worse.
  void AwaitStreams() const;
  // Waits for what computes; what the device says of it.
  absl::Status AskDevice() const;
  // What `error` of a call for the device means: UNAVAILABLE if it fails when asked again, too.
  absl::Status Diagnose(absl::Status error);

  const c10::Device device_;
  const std::string device_name_;
  const ExecutionOptions options_;
  const std::unique_ptr<DeviceHealth> own_health_;  // where none was given
  DeviceHealth* const health_;
  const std::optional<Streams> streams_;  // none on the CPU
  int64_t max_rows_ = std::numeric_limits<int64_t>::max();
  ForwardPass forward_;
  std::unique_ptr<BatchGraphs> graphs_;  // null: none
  std::string eager_because_ = "its inputs are not of one size";
  StagingRing staging_;
  OutputPool outputs_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_EXECUTION_TORCH_REPLICA_H_
