// What the suite's tests share: the devices, versions of networks loaded from files as the server
// loads them, and batches for them.
//
// For the tests' main thread, where not said otherwise.
#ifndef SCONCE_TESTS_GPU_SUITE_H_
#define SCONCE_TESTS_GPU_SUITE_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <gmock/gmock.h>

#include <cstdint>
#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "models/architecture.h"
#include "server/device/device_health.h"
#include "server/device/execution_options.h"
#include "server/device/replica.h"
#include "server/registry/model_version.h"

namespace sconce::gpu {

// Those that StartDevices gave; never empty.
const std::vector<c10::Device>& Devices();

class GpuTest : public testing::Test {
 protected:
  ~GpuTest() override;

  const c10::Device device_ = Devices().front();
};

// A network of the catalogue.
struct Network {
  std::string architecture;
  std::map<std::string, std::string> parameters;  // as config.pbtxt has them
  std::vector<int64_t> row;                       // dimensions of one row of its input
  // Sizes the network is served with, where they are not the architecture's own.
  bool configured_sizes = false;

  std::vector<int64_t> Shape(int64_t rows) const;
};

void PrintTo(const Network& network, std::ostream* out);

// Small and quick: 64 inputs, 32 outputs.
Network SmallMlp();
Network ResNet18();

struct LoadSettings {
  ExecutionOptions execution;
  uint64_t seed = 1;  // of the random weights
  int64_t max_batch_size = 8;
  int64_t number = 1;
  DeviceHealth* health = nullptr;
};

// The path of a weights file for the network; written where it is not there yet. Any thread.
std::string WeightsFile(const Network& network, uint64_t seed);

// The whole of a load: file, network, weights on the devices, warm-up. Any thread.
absl::StatusOr<std::unique_ptr<ModelVersion>> TryLoad(const Network& network,
                                                      const std::vector<c10::Device>& devices,
                                                      const LoadSettings& settings);
// A failure fails the test and the next access of the result.
std::unique_ptr<ModelVersion> Load(const Network& network, c10::Device device,
                                   const LoadSettings& settings = {});

// Numbers of a standard normal distribution.
at::Tensor Normal(const std::vector<int64_t>& shape, uint64_t seed);

// A copy of a tensor of the CPU in the replica's staging memory.
HostTensor Stage(Replica& replica, const at::Tensor& values);
BatchInput Batch(Replica& replica, const at::Tensor& values);

// A view of the bytes.
at::Tensor View(const HostTensor& tensor);

// One batch of one input, its only output copied out. A failure fails the test.
at::Tensor Answer(Replica& replica, const at::Tensor& values);

// The largest difference, as a share of the largest expected value; infinite where there is none or
// it is no number.
double RelativeError(const at::Tensor& got, const at::Tensor& expected);

// Bytes of the device's memory that tensors of this process take.
int64_t AllocatedBytes(c10::Device device);

}  // namespace sconce::gpu

#endif  // SCONCE_TESTS_GPU_SUITE_H_
