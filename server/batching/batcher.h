// Batcher: one model's queue and the executor threads that empty it. An executor that is free takes
// what waits, up to the largest batch (batch_policy.h); pins one version for it; copies the inputs
// once, from the wire into the batch; runs the replica and hands each request its rows.
//
// Thread-safe. Made by Batchers when a model appears. Submit never blocks.

#ifndef SCONCE_SERVER_BATCHING_BATCHER_H_
#define SCONCE_SERVER_BATCHING_BATCHER_H_

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "server/base/clock.h"
#include "server/base/metrics.h"
#include "server/base/mutex.h"
#include "server/base/thread.h"
#include "server/batching/batch_policy.h"
#include "server/batching/request.h"
#include "server/registry/model.h"
#include "server/registry/registry.h"

namespace sconce {

class Batcher {
 public:
  Batcher(std::shared_ptr<Model> model, ModelMetrics* metrics, const Clock* clock);
  // Answers what still waits with UNAVAILABLE and ends the executors.
  ~Batcher();

  // Queues the request; `done` is called at once, with UNAVAILABLE, where the queue is full or the
  // model is not served.
  void Submit(InferRequest request);

  // Has as many executors as the live version has replicas.
  void OnVersionChanged();

  // Answers what waits with UNAVAILABLE, takes no more, and ends the executors after their batch.
  void Stop();

 private:
  // What one executor thread owns.
  struct Executor;

  void RunExecutor(Executor* executor);
  // Fills `batch` and `refused` from the queue; null where the model is not served any more.
  std::shared_ptr<const ModelVersion> FormBatch(
      std::vector<InferRequest>* batch,
      std::vector<std::pair<InferRequest, absl::Status>>* refused)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunBatch(const std::shared_ptr<const ModelVersion>& version, std::vector<InferRequest> batch,
                Executor* executor);
  void Refuse(InferRequest& request, absl::Status status);

  const std::shared_ptr<Model> model_;
  ModelMetrics* const metrics_;
  const Clock* const clock_;

  Mutex mutex_;
  CondVar work_;
  CondVar resized_;
  std::deque<InferRequest> waiting_ ABSL_GUARDED_BY(mutex_);
  int64_t waiting_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  ServiceTimes service_times_ ABSL_GUARDED_BY(mutex_);
  // Executors with a higher index rest until the model has as many replicas again.
  size_t wanted_executors_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::unique_ptr<Executor>> executors_ ABSL_GUARDED_BY(mutex_);
};

// Batchers: the batcher of each model in the registry.
// Thread-safe. Owned by App; observes the registry.
class Batchers : public RegistryObserver {
 public:
  Batchers(Metrics* metrics, const Clock* clock) : metrics_(metrics), clock_(clock) {}

  // Null if there is no such model.
  std::shared_ptr<Batcher> Find(const std::string& model) const;

  void OnModelAdded(const std::shared_ptr<Model>& model) override;
  void OnModelRemoved(const std::shared_ptr<Model>& model) override;
  void OnModelChanged(const std::shared_ptr<Model>& model) override;
  void OnReadyChanged(bool) override {}

 private:
  Metrics* const metrics_;
  const Clock* const clock_;
  mutable Mutex mutex_;
  std::map<std::string, std::shared_ptr<Batcher>> batchers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_BATCHER_H_
