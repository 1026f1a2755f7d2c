// What the tests of replicas share: networks, batches, and the streams a replica uses.

#ifndef SCONCE_TESTS_DEVICE_REPLICA_FIXTURE_H_
#define SCONCE_TESTS_DEVICE_REPLICA_FIXTURE_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "models/architecture.h"
#include "models/net.h"
#include "server/device/execution/torch_replica.h"
#include "tests/device/sim_test.h"
#include "tests/support/function_net.h"

namespace sconce {

struct ReplicaCase {
  std::string architecture;
  models::Parameters parameters;
  std::vector<int64_t> input;
};

// 8 numbers a row become 4.
ReplicaCase Mlp();
// A batch of that network.
inline const std::vector<int64_t> kShape = {3, 8};

// The same network, with the same weights, each time it is made.
std::shared_ptr<models::Net> MakeNet(const ReplicaCase& c, c10::Device device);

// Numbers drawn with `seed`, in the replica's staging memory.
HostTensor Staged(Replica& replica, const std::vector<int64_t>& shape, int seed);
at::Tensor Drawn(const std::vector<int64_t>& shape, int seed);

std::string Bytes(const HostTensor& tensor);
// A copy as a CPU tensor.
at::Tensor ToTensor(const HostTensor& tensor);

// Launch that must succeed.
std::unique_ptr<RunningBatch> Launched(Replica& replica, const std::vector<int64_t>& shape,
                                       int seed);
// The only output, as bytes; empty where it fails.
std::string Finished(RunningBatch& batch);
std::string Answer(Replica& replica, const std::vector<int64_t>& shape, int seed);

// A replica with the streams it got: they are taken from LibTorch's pool in this order.
struct StreamedReplica {
  StreamedReplica(std::shared_ptr<const models::Net> net, c10::Device device,
                  const ExecutionOptions& options = {}, DeviceHealth* health = nullptr);

  c10::Stream copy_in;
  c10::Stream compute;
  c10::Stream copy_out;
  std::unique_ptr<TorchReplica> replica;
};

}  // namespace sconce

#endif  // SCONCE_TESTS_DEVICE_REPLICA_FIXTURE_H_
