// Replica: one copy of a version's network on one device, ready to run. Free of torch, so that
// everything around it can be tested with a fake (tests/support/fake_replica.h).
//
// Owned by its ModelVersion (server/registry). Run is called by one executor thread at a time.

#ifndef SCONCE_SERVER_DEVICE_REPLICA_H_
#define SCONCE_SERVER_DEVICE_REPLICA_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
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

class Replica {
 public:
  virtual ~Replica() = default;

  // "cpu", "cuda:0".
  virtual const std::string& device() const = 0;

  // Host memory from which this replica's device copies fastest (page-locked for CUDA), 64-byte
  // aligned.
  virtual absl::StatusOr<HostTensor> AllocateStaging(int64_t size_bytes) = 0;

  // Runs one batch: inputs and outputs in the signature's order. The outputs do not share memory
  // with the inputs, which the caller overwrites after Run has returned, whatever it returned.
  virtual absl::StatusOr<std::vector<HostTensor>> Run(absl::Span<const HostTensor> inputs) = 0;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_REPLICA_H_
