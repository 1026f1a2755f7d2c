// The server's own parts from a weights file to an answer, on simulated devices, without network
// and watcher: the loader, the registry, the batcher, the reaper; versions that are retained; and
// weights whose answers tell which version gave them.
#ifndef SCONCE_TESTS_DEVICE_SERVING_STACK_H_
#define SCONCE_TESTS_DEVICE_SERVING_STACK_H_

#include <c10/core/Device.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/clock.h"
#include "server/base/metrics.h"
#include "server/base/mutex.h"
#include "server/batching/batchers.h"
#include "server/device/device_health.h"
#include "server/loader/torch_version_loader.h"
#include "server/registry/reaper.h"
#include "server/registry/registry.h"
#include "tests/support/temp_dir.h"

namespace sconce {

// Device memory, device by device, and pinned memory that is taken.
std::vector<int64_t> MemoryInUse();

// Polls until condition() is true; false after a minute.
bool WaitUntil(const std::function<bool()>& condition);

class ServingStack {
 public:
  // Batches of up to 4 rows, and nothing else out of the ordinary, unless `config` says so.
  explicit ServingStack(std::vector<c10::Device> devices, ModelConfig config = SmallBatches());
  ~ServingStack();

  static ModelConfig SmallBatches() {
    ModelConfig config;
    config.max_batch_size = 4;
    config.retained_versions = 0;
    return config;
  }
  ModelConfig& config() { return config_; }
  // The model's golden samples from now on.
  void SetGolden(std::vector<std::string> paths) { golden_ = std::move(paths); }

  // Loads version `number` and publishes it. The weights of two versions differ in a third of their
  // bytes. With `publish` false it is withdrawn instead, when all is proven.
  absl::Status Load(int64_t number, bool publish = true);
  // The last retained version answers again.
  void RollBack();
  // Steps of the last load.
  const std::vector<VersionState>& steps() const { return steps_; }
  // How often a retained version was let go because a load wanted its memory.
  int64_t released() const { return released_; }
  // Why the model was taken out of service; empty: it was not.
  std::string retired_because() const;
  std::shared_ptr<const ModelVersion> live() const { return registry_.Find("m")->Pin(); }

  // Waits until every version but the one that serves is gone; false if that takes too long.
  // REQUIRES: none is retained.
  bool AwaitOneVersion();
  // Takes the model out of service and waits until every version is gone.
  void Clear();

  const DeviceHealth& health() const { return health_; }

  // A request of one row per value, and what came of it: whether each row is what the named version
  // makes of its value, and no other row's.
  struct Answer {
    absl::Status status;
    int64_t version = 0;
    std::string wrong;  // empty: nothing
  };
  std::future<Answer> Ask(std::vector<float> values);

 private:
  bool ReleaseRetained();

  ModelConfig config_;
  std::vector<std::string> golden_;
  std::vector<VersionState> steps_;
  std::deque<std::shared_ptr<const ModelVersion>> retained_;  // the newest last
  int64_t released_ = 0;
  mutable Mutex mutex_;
  std::string retired_because_ ABSL_GUARDED_BY(mutex_);
  TempDir folder_;
  DeviceHealth health_;
  Metrics metrics_;
  Reaper reaper_;
  Registry registry_;
  Batchers batchers_{&metrics_, Clock::Real()};
  TorchVersionLoader loader_;
  int64_t owned_ = 0;
};

// Clients that ask all the time, each for batches of different sizes.
class Clients {
 public:
  Clients(ServingStack* stack, int count);
  ~Clients() { Stop(); }

  // Until an answer has come from `version`; false if none does.
  bool AwaitVersion(int64_t version) const;
  void Stop();

  // Those are to be read once the clients have stopped.
  int64_t answers() const { return answers_; }
  std::vector<std::string> Problems() const;

 private:
  void Run(int client);

  ServingStack* const stack_;
  std::atomic<bool> stop_ = false;
  std::atomic<int64_t> answers_ = 0;
  std::atomic<int64_t> newest_ = 0;
  mutable Mutex mutex_;
  std::vector<std::string> problems_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

}  // namespace sconce

#endif  // SCONCE_TESTS_DEVICE_SERVING_STACK_H_
