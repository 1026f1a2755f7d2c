#include "tests/gpu/suite.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/randn.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/catalog.h"
#include "server/loader/torch_version_loader.h"
#include "server/weights/scalar_type.h"
#include "tests/gpu/backend.h"
#include "tests/support/random_weights.h"
#include "tests/support/temp_dir.h"

namespace sconce::gpu {
namespace {

std::unique_ptr<models::Net> Create(const Network& network) {
  for (const models::Architecture* architecture : models::Catalog()) {
    if (architecture->name() != network.architecture) continue;
    const auto parameters = models::ParseParameters(*architecture, network.parameters);
    if (!parameters.ok()) {
      ADD_FAILURE() << parameters.status();
      return nullptr;
    }
    auto net = architecture->Create(*parameters);
    if (net.ok()) return *std::move(net);
    ADD_FAILURE() << net.status();
    return nullptr;
  }
  ADD_FAILURE() << "no architecture is called " << network.architecture;
  return nullptr;
}

}  // namespace

GpuTest::~GpuTest() { ResetDevices(); }

std::vector<int64_t> Network::Shape(int64_t rows) const {
  std::vector<int64_t> shape = row;
  shape.insert(shape.begin(), rows);
  return shape;
}

void PrintTo(const Network& network, std::ostream* out) { *out << network.architecture; }

Network SmallMlp() {
  return {"mlp",
          {{"features", "64,128,32"}, {"layers", "0,2"}, {"bias", "true"}, {"activation", "relu"}},
          {64}};
}

Network ResNet18() { return {"resnet18", {{"num_classes", "10"}}, {3, 64, 64}, true}; }

std::string WeightsFile(const Network& network, uint64_t seed) {
  static const TempDir folder;
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  const std::string path = folder.Path(absl::StrCat(
      network.architecture, absl::StrJoin(network.parameters, "", absl::PairFormatter("-")), "-",
      seed, ".safetensors"));
  if (std::filesystem::exists(path)) return path;
  const std::unique_ptr<models::Net> net = Create(network);
  if (net == nullptr) return path;
  const absl::Status written = WriteSafetensors(RandomWeights(*net, seed), path);
  EXPECT_TRUE(written.ok()) << written;
  return path;
}

absl::StatusOr<std::unique_ptr<ModelVersion>> TryLoad(const Network& network,
                                                      const std::vector<c10::Device>& devices,
                                                      const LoadSettings& settings) {
  LoadRequest request;
  request.model = network.architecture;
  request.number = settings.number;
  request.weights_path = WeightsFile(network, settings.seed);
  request.config.architecture = network.architecture;
  request.config.architecture_parameters = network.parameters;
  request.config.max_batch_size = settings.max_batch_size;
  request.config.execution = settings.execution;
  if (network.configured_sizes) {
    request.config.inputs = {{"input", DType::kFloat32, network.row}};
  }
  static DeviceHealth never_lost;  // outlives every version
  TorchVersionLoader loader(devices, CheckpointOptions{},
                            settings.health == nullptr ? &never_lost : settings.health);
  auto loaded = loader.Load(request);
  if (!loaded.ok()) return loaded.status();
  return std::move(loaded->version);
}

std::unique_ptr<ModelVersion> Load(const Network& network, c10::Device device,
                                   const LoadSettings& settings) {
  auto version = TryLoad(network, {device}, settings);
  EXPECT_TRUE(version.ok()) << version.status();
  return version.ok() ? *std::move(version) : nullptr;
}

at::Tensor Normal(const std::vector<int64_t>& shape, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::randn(shape, generator);
}

HostTensor Stage(Replica& replica, const at::Tensor& values) {
  auto staged = replica.Stage({static_cast<int64_t>(values.nbytes())});
  if (!staged.ok()) {
    ADD_FAILURE() << staged.status();
    return {};
  }
  HostTensor input = std::move(staged->front());
  std::memcpy(input.bytes.data(), values.const_data_ptr(), values.nbytes());
  input.dtype = *FromScalarType(values.scalar_type());
  input.shape = values.sizes().vec();
  return input;
}

BatchInput Batch(Replica& replica, const at::Tensor& values) {
  BatchInput batch;
  batch.inputs.push_back(Stage(replica, values));
  return batch;
}

at::Tensor View(const HostTensor& tensor) {
  return at::from_blob(tensor.bytes.data(), tensor.shape, ToScalarType(tensor.dtype));
}

at::Tensor Answer(Replica& replica, const at::Tensor& values) {
  const auto outputs = replica.Run(Batch(replica, values));
  if (!outputs.ok() || outputs->size() != 1) {
    ADD_FAILURE() << outputs.status();
    return {};
  }
  return View(outputs->front()).clone();
}

double RelativeError(const at::Tensor& got, const at::Tensor& expected) {
  if (!got.defined() || got.sizes() != expected.sizes()) {
    return std::numeric_limits<double>::infinity();
  }
  const at::Tensor wanted = expected.to(at::kDouble);
  const double difference = got.to(at::kDouble).sub(wanted).abs().max().item<double>();
  if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
  return difference / wanted.abs().max().item<double>();
}

int64_t AllocatedBytes(c10::Device device) {
  return at::accelerator::getDeviceStats(device.index()).allocated_bytes[0].current;
}

}  // namespace sconce::gpu
