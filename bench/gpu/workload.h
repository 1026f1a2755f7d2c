// Workload: a network that is measured, the size of its batches and the latency it is held to; and
// Versions, which loads it as the server does.
//
// Workloads are values. Versions is thread-safe.

#ifndef SCONCE_BENCH_GPU_WORKLOAD_H_
#define SCONCE_BENCH_GPU_WORKLOAD_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/architecture.h"
#include "models/net.h"
#include "server/device/device_health.h"
#include "server/device/execution_options.h"
#include "server/registry/model_version.h"

namespace sconce::bench {

struct Workload {
  std::string name;                               // "resnet50"
  std::string unit;                               // "images"
  const models::Architecture* architecture;       // lives as long as the process
  std::map<std::string, std::string> parameters;  // as config.pbtxt has them
  TensorSpec input;
  int64_t batch = 1;    // rows of the largest batch
  double bound_ms = 0;  // what the 99th percentile is to stay below
};

// As published benchmarks have them, or so small that a processor runs them in a moment.
Workload ResNet50(bool quick);
// BERT-base's sizes.
Workload Bert(bool quick);

// Rows as a client sends them: numbers of a normal distribution, or token ids.
at::Tensor RandomRows(const Workload& workload, int64_t rows);

class Versions {
 public:
  // Writes two files of random weights for the workload into `folder`, which outlives this.
  static absl::StatusOr<std::unique_ptr<Versions>> Make(const Workload& workload,
                                                        const std::string& folder,
                                                        c10::Device device);

  const Workload& workload() const { return workload_; }
  c10::Device device() const { return device_; }

  // A version as the server's loader makes it, warmed up, from the first file or the second.
  absl::StatusOr<std::unique_ptr<ModelVersion>> Load(const ExecutionOptions& execution,
                                                     int64_t number, bool second = false);

  // The bare network with the first file's weights on the device.
  absl::StatusOr<std::unique_ptr<models::Net>> BareNet(const ExecutionOptions& execution) const;

  const std::string& first_path() const { return paths_[0]; }
  int64_t weights_bytes() const { return weights_bytes_; }

 private:
  Versions(Workload workload, c10::Device device)
      : workload_(std::move(workload)), device_(device) {}

  absl::StatusOr<std::unique_ptr<models::Net>> NewNet() const;

  const Workload workload_;
  const c10::Device device_;
  std::vector<std::string> paths_;
  int64_t weights_bytes_ = 0;
  DeviceHealth health_;
};

at::ScalarType TypeOf(Precision precision);
const char* NameOf(Precision precision);

}  // namespace sconce::bench

#endif  // SCONCE_BENCH_GPU_WORKLOAD_H_
