// A replica without torch: y = scale * x + bias per element, on FP32 of any row shape, and model
// versions made of it. Tests can hold runs back and make them fail.

#ifndef SCONCE_TESTS_SUPPORT_FAKE_REPLICA_H_
#define SCONCE_TESTS_SUPPORT_FAKE_REPLICA_H_

#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/device/replica.h"
#include "server/registry/model_version.h"

namespace sconce {

// Holds back whoever calls Pass while it is closed. Thread-safe.
class Gate {
 public:
  void Close() { Set(false); }
  void Open() { Set(true); }
  void Pass() {
    MutexLock lock(&mutex_);
    ++waiting_;
    changed_.NotifyAll();
    while (!open_) changed_.Wait(&mutex_);
    --waiting_;
  }
  // Returns once somebody is held back.
  void AwaitHeld() {
    MutexLock lock(&mutex_);
    while (waiting_ == 0) changed_.Wait(&mutex_);
  }

 private:
  void Set(bool open) {
    MutexLock lock(&mutex_);
    open_ = open;
    changed_.NotifyAll();
  }

  Mutex mutex_;
  CondVar changed_;
  bool open_ ABSL_GUARDED_BY(mutex_) = true;
  int waiting_ ABSL_GUARDED_BY(mutex_) = 0;
};

class FakeReplica : public Replica {
 public:
  struct Behaviour {
    float scale = 1;
    float bias = 0;
    // Called by each launch with the number of rows, before the result is made.
    std::function<absl::Status(int64_t rows)> on_run = {};
    // Called when a launched batch is waited for.
    std::function<absl::Status(int64_t rows)> on_finish = {};
    // Called with what is launched.
    std::function<void(const BatchInput& batch)> on_launch = {};
    std::string device = "cpu";
    int depth = 1;
    int64_t max_rows = std::numeric_limits<int64_t>::max();
    int numa_node = -1;
    // Asked by health(); OK without it.
    std::function<absl::Status()> health = {};
  };
  explicit FakeReplica(Behaviour behaviour) : behaviour_(std::move(behaviour)) {}

  const std::string& device() const override { return behaviour_.device; }

  int depth() const override { return behaviour_.depth; }
  int64_t max_rows() const override { return behaviour_.max_rows; }
  int numa_node() const override { return behaviour_.numa_node; }
  absl::Status health() const override {
    return behaviour_.health ? behaviour_.health() : absl::OkStatus();
  }

  absl::StatusOr<std::vector<HostTensor>> Stage(absl::Span<const int64_t> size_bytes) override {
    std::vector<HostTensor> staged;
    for (const int64_t size : size_bytes) {
      auto memory = std::make_shared<std::vector<std::byte>>(size);
      staged.push_back({DType::kUInt8, {size}, absl::MakeSpan(*memory), memory});
    }
    return staged;
  }

  absl::StatusOr<std::unique_ptr<RunningBatch>> Launch(BatchInput batch) override {
    const HostTensor& input = batch.inputs[0];
    if (behaviour_.on_launch) behaviour_.on_launch(batch);
    if (behaviour_.on_run) {
      if (absl::Status status = behaviour_.on_run(input.shape[0]); !status.ok()) return status;
    }
    auto memory = std::make_shared<std::vector<std::byte>>(input.bytes.size());
    for (size_t at = 0; at < memory->size(); at += sizeof(float)) {
      float value;
      std::memcpy(&value, input.bytes.data() + at, sizeof value);
      value = value * behaviour_.scale + behaviour_.bias;
      std::memcpy(memory->data() + at, &value, sizeof value);
    }
    return std::make_unique<Launched>(
        std::vector<HostTensor>{{DType::kFloat32, input.shape, absl::MakeSpan(*memory), memory}},
        behaviour_.on_finish);
  }

 private:
  class Launched : public RunningBatch {
   public:
    Launched(std::vector<HostTensor> outputs, std::function<absl::Status(int64_t rows)> on_finish)
        : outputs_(std::move(outputs)), on_finish_(std::move(on_finish)) {}
    absl::StatusOr<std::vector<HostTensor>> Finish() override {
      if (on_finish_) {
        if (absl::Status status = on_finish_(outputs_[0].shape[0]); !status.ok()) return status;
      }
      return std::move(outputs_);
    }

   private:
    std::vector<HostTensor> outputs_;
    const std::function<absl::Status(int64_t rows)> on_finish_;
  };

  const Behaviour behaviour_;
};

// Version `number` of `model`: input and output FP32[-1, dims...], all replicas alike.
inline std::unique_ptr<ModelVersion> MakeFakeVersion(std::string model, int64_t number,
                                                     FakeReplica::Behaviour behaviour,
                                                     std::vector<int64_t> dims = {2},
                                                     size_t replicas = 1) {
  auto version = std::make_unique<ModelVersion>();
  version->model = std::move(model);
  version->number = number;
  version->weights_id = "id" + std::to_string(number);
  version->architecture = "affine";
  version->signature.inputs = {{"x", DType::kFloat32, dims}};
  version->signature.outputs = {{"y", DType::kFloat32, std::move(dims)}};
  for (size_t i = 0; i < replicas; ++i) {
    version->replicas.push_back(std::make_unique<FakeReplica>(behaviour));
  }
  return version;
}

}  // namespace sconce

#endif  // SCONCE_TESTS_SUPPORT_FAKE_REPLICA_H_
