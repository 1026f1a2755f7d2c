#include "tests/device/replica_fixture.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/randn.h>

#include <cstring>
#include <utility>

#include "models/catalog.h"
#include "server/weights/scalar_type.h"
#include "tests/support/simdevice/streams.h"

namespace sconce {
namespace {

// The n-th stream of the pool after `stream`.
c10::Stream StreamAfter(c10::Stream stream, int n) {
  return c10::Stream(c10::Stream::UNSAFE, stream.device(),
                     (stream.id() - 1 + n) % simdevice::kPoolStreams + 1);
}

}  // namespace

ReplicaCase Mlp() {
  return {"mlp",
          {{"features", std::vector<int64_t>{8, 16, 4}},
           {"layers", std::string("0,2")},
           {"bias", true},
           {"activation", std::string("relu")}},
          {3, 8}};
}

std::shared_ptr<models::Net> MakeNet(const ReplicaCase& c, c10::Device device) {
  for (const models::Architecture* architecture : models::Catalog()) {
    if (architecture->name() != c.architecture) continue;
    auto net = architecture->Create(c.parameters);
    if (!net.ok()) {
      ADD_FAILURE() << net.status();
      return nullptr;
    }
    at::Generator generator = at::detail::createCPUGenerator(/*seed_val=*/1);
    const std::vector<models::NamedTensor> state = (*net)->State();
    for (size_t i = 0; i < state.size(); ++i) {
      const at::Tensor& own = state[i].tensor;
      const at::Tensor values = at::randn(own.sizes(), generator).mul_(0.05).abs_();
      (*net)->Assign(i, values.to(device, own.scalar_type()));
    }
    (*net)->Eval(device);
    return *std::move(net);
  }
  ADD_FAILURE() << "no architecture is called " << c.architecture;
  return nullptr;
}

at::Tensor Drawn(const std::vector<int64_t>& shape, int seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::randn(shape, generator);
}

HostTensor Staged(Replica& replica, const std::vector<int64_t>& shape, int seed) {
  const at::Tensor values = Drawn(shape, seed);
  auto ring = replica.Stage({static_cast<int64_t>(values.nbytes())});
  if (!ring.ok()) {
    ADD_FAILURE() << ring.status();
    return {};
  }
  HostTensor staging = std::move(ring->front());
  std::memcpy(staging.bytes.data(), values.data_ptr(), values.nbytes());
  staging.dtype = DType::kFloat32;
  staging.shape = shape;
  return staging;
}

std::string Bytes(const HostTensor& tensor) {
  return std::string(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
}

at::Tensor ToTensor(const HostTensor& tensor) {
  return at::from_blob(tensor.bytes.data(), tensor.shape,
                       at::TensorOptions().dtype(ToScalarType(tensor.dtype)))
      .clone();
}

std::unique_ptr<RunningBatch> Launched(Replica& replica, const std::vector<int64_t>& shape,
                                       int seed) {
  BatchInput batch;
  batch.inputs.push_back(Staged(replica, shape, seed));
  auto launched = replica.Launch(std::move(batch));
  if (!launched.ok()) {
    ADD_FAILURE() << launched.status();
    return nullptr;
  }
  return *std::move(launched);
}

std::string Finished(RunningBatch& batch) {
  const auto outputs = batch.Finish();
  if (!outputs.ok() || outputs->size() != 1) {
    ADD_FAILURE() << outputs.status();
    return "";
  }
  return Bytes(outputs->front());
}

std::string Answer(Replica& replica, const std::vector<int64_t>& shape, int seed) {
  const auto batch = Launched(replica, shape, seed);
  return batch == nullptr ? "" : Finished(*batch);
}

StreamedReplica::StreamedReplica(std::shared_ptr<const models::Net> net, c10::Device device,
                                 const ExecutionOptions& options, DeviceHealth* health)
    : copy_in(simdevice::NewStream(device)), compute(copy_in), copy_out(copy_in) {
  const c10::Stream before = copy_in;
  copy_in = StreamAfter(before, 1);
  compute = StreamAfter(before, 2);
  copy_out = StreamAfter(before, 3);
  replica = std::make_unique<TorchReplica>(std::move(net), device, options, health);
}

}  // namespace sconce
