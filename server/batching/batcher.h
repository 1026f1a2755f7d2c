// Batcher: one model's queue and the executor threads that empty it. It says which executor takes
// which requests when (batch_policy.h, dispatch_policy.h) and pins one version for each batch; what
// happens to the batch then is the executor's (executor.h). Replicas whose device is lost are left
// out; their requests go back to the front of the queue once.
//
// Thread-safe. Made by Batchers when a model appears. Submit never blocks.

#ifndef SCONCE_SERVER_BATCHING_BATCHER_H_
#define SCONCE_SERVER_BATCHING_BATCHER_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/base/clock.h"
#include "server/base/metrics.h"
#include "server/base/mutex.h"
#include "server/batching/batch_policy.h"
#include "server/batching/dispatch_policy.h"
#include "server/batching/executor.h"
#include "server/batching/request.h"
#include "server/batching/request_queue.h"
#include "server/batching/watchdog.h"
#include "server/registry/model.h"
#include "server/registry/registry.h"

namespace sconce {

class Batcher {
 public:
  // Told, without a lock held, that no replica of the model's live version works any more; perhaps
  // several times.
  using OnDevicesLost = std::function<void(const std::shared_ptr<Model>& model,
                                           const std::shared_ptr<const ModelVersion>& version,
                                           const std::string& reason)>;

  Batcher(std::shared_ptr<Model> model, ModelMetrics* metrics, const Clock* clock,
          OnDevicesLost on_devices_lost);
  // Answers what still waits with UNAVAILABLE and ends the executors.
  ~Batcher();

  // Queues the request; `done` is called at once, with UNAVAILABLE, where the queue is full or the
  // model is not served, and with RESOURCE_EXHAUSTED where no replica has memory for that many
  // rows.
  void Submit(InferRequest request);

  // Has as many executors as the live version has replicas.
  void OnVersionChanged();

  // Takes the replicas of the live version that do not work any more out of service.
  void CheckHealth();

  // Answers what waits with UNAVAILABLE, takes no more, and ends the executors after what they have
  // under way.
  void Stop();

  // Adds what the executors have under way.
  void AddUnderWay(std::vector<WatchedBatch>* batches);

 private:
  // An executor, its thread, and what others know of it.
  struct Slot;
  struct Closing;
  enum class Turn { kLaunch, kFinish, kAnswer, kEnd };

  void RunExecutor(Slot* slot);
  Turn AwaitTurn(Slot* slot, Closing* closing) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Fills `closing` from the queue; false where there is nothing to launch or to refuse yet.
  bool Close(Slot* slot, TimePoint now, Closing* closing) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The executor whose turn it is to take the first request that an available one can take.
  std::optional<size_t> Next(TimePoint now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Wakes that one, if it has something to do.
  void Call(std::optional<size_t> executor) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Brings what is known of an executor up to date with the version.
  void Know(Slot* slot, const ModelVersion* version) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool AnyUsable() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t MostRows() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status TooLarge() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status NotServed() const;
  absl::Status NotServed(absl::string_view reason) const;
  // Puts requests whose device was lost back to the front of the queue, or answers them.
  void PutBack(Refusals lost);
  void Refuse(Refusals* refused);

  const std::shared_ptr<Model> model_;
  ModelMetrics* const metrics_;
  const Clock* const clock_;
  const OnDevicesLost on_devices_lost_;

  Mutex mutex_;
  RequestQueue queue_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t batches_ ABSL_GUARDED_BY(mutex_) = 0;
  // By the executor's index; only grow. Those that the live version has no replica for, or a lost
  // one, rest.
  std::vector<std::unique_ptr<Slot>> slots_ ABSL_GUARDED_BY(mutex_);
  std::vector<ExecutorLoad> loads_ ABSL_GUARDED_BY(mutex_);
};

// Batchers: the batcher of each model in the registry.
// Thread-safe. Owned by App; observes the registry.
class Batchers : public RegistryObserver {
 public:
  Batchers(Metrics* metrics, const Clock* clock, Batcher::OnDevicesLost on_devices_lost = {})
      : metrics_(metrics), clock_(clock), on_devices_lost_(std::move(on_devices_lost)) {}

  // Null if there is no such model.
  std::shared_ptr<Batcher> Find(const std::string& model) const;

  // To be called when a device is lost, so that a model without requests hears of it too.
  void CheckHealth() const;

  // What all models have under way.
  std::vector<WatchedBatch> UnderWay() const;

  void OnModelAdded(const std::shared_ptr<Model>& model) override;
  void OnModelRemoved(const std::shared_ptr<Model>& model) override;
  void OnModelChanged(const std::shared_ptr<Model>& model) override;
  void OnReadyChanged(bool) override {}

 private:
  std::vector<std::shared_ptr<Batcher>> All() const;

  Metrics* const metrics_;
  const Clock* const clock_;
  const Batcher::OnDevicesLost on_devices_lost_;
  mutable Mutex mutex_;
  std::map<std::string, std::shared_ptr<Batcher>> batchers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_BATCHER_H_
