// Replica: one copy of a version's network on one device, ready to run. Free of torch, so that
// everything around it can be tested with a fake (tests/support/fake_replica.h).
//
// A batch is staged (memory for its inputs is taken from the replica's ring), launched (the device
// copies in, computes and copies out by itself) and finished (waited for). While one computes, the
// next can be staged and launched.
//
// Owned by its ModelVersion (server/registry). Stage and Launch are called by one executor thread
// at a time.

#ifndef SCONCE_SERVER_DEVICE_REPLICA_H_
#define SCONCE_SERVER_DEVICE_REPLICA_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/dtype.h"

namespace sconce {

// A row-major tensor in host memory; the first dimension is the batch's rows. `owner` keeps the
// bytes alive.
struct HostTensor {
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  absl::Span<std::byte> bytes;
  std::shared_ptr<void> owner;
};

// Memory of a device that is not the server's own, such as a region that a client registered: an
// address that the host cannot read.
struct DeviceBytes {
  std::string device;  // "cuda:0"
  std::shared_ptr<void> address;
  int64_t size_bytes = 0;
};

// What a replica is given to run.
struct BatchInput {
  // In the signature's order.
  std::vector<HostTensor> inputs;

  // Bytes of an input that come out of a device's memory, instead of what is staged in that place.
  struct FromDevice {
    size_t input = 0;
    int64_t offset_bytes = 0;
    DeviceBytes source;
  };
  std::vector<FromDevice> from_device;

  // Rows [first, first + rows) of an output that are also written to a device's memory; all of one
  // that has no batch dimension where `rows` is kWhole.
  struct ToDevice {
    static constexpr int64_t kWhole = -1;

    size_t output = 0;
    int64_t first = 0;
    int64_t rows = 0;
    DeviceBytes target;  // of exactly the rows' size, or the batch fails with INVALID_ARGUMENT
  };
  std::vector<ToDevice> to_device;
};

// A batch that was launched. Used by one thread at a time; may outlive its replica's next launches,
// not the replica.
class RunningBatch {
 public:
  // Waits until the device has done with the batch, if nobody has yet.
  virtual ~RunningBatch() = default;

  // The outputs in the signature's order, once they are there. They share no memory with inputs,
  // and may outlive the replica. Called once.
  virtual absl::StatusOr<std::vector<HostTensor>> Finish() = 0;
};

class Replica {
 public:
  virtual ~Replica() = default;

  // "cpu", "cuda:0".
  virtual const std::string& device() const = 0;

  // Batches that may be under way at a time: 1 where Launch itself computes, as on the CPU.
  virtual int depth() const = 0;

  // Rows of the largest batch that is known to fit into the device's memory.
  virtual int64_t max_rows() const = 0;

  // The NUMA node the device is attached to; -1 where that is unknown or makes no difference.
  virtual int numa_node() const = 0;

  // OK, or UNAVAILABLE with the reason why the device is lost for good.
  virtual absl::Status health() const = 0;

  // Host memory for a batch's inputs of these sizes, from which the device copies fastest
  // (page-locked for CUDA), 64-byte aligned: dtype UINT8, shape {size}. It goes back to the
  // replica's ring once every owner is dropped; a running batch keeps its own.
  // RESOURCE_EXHAUSTED out of memory.
  virtual absl::StatusOr<std::vector<HostTensor>> Stage(absl::Span<const int64_t> size_bytes) = 0;

  // Errors, of Finish too: RESOURCE_EXHAUSTED out of memory, the replica goes on; UNAVAILABLE the
  // device is lost; INTERNAL anything else. After an error of Launch nothing is under way.
  virtual absl::StatusOr<std::unique_ptr<RunningBatch>> Launch(BatchInput batch) = 0;

  // Launch and Finish.
  absl::StatusOr<std::vector<HostTensor>> Run(BatchInput batch) {
    auto running = Launch(std::move(batch));
    if (!running.ok()) return running.status();
    return (*running)->Finish();
  }
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_REPLICA_H_
