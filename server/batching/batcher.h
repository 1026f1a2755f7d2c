// Batcher: one model's queue and the executor threads that empty it. It says which executor takes
// which requests when (batch_policy.h, dispatch_policy.h) and pins one version for each batch, of
// those that answer (answering.h); what happens to the batch then is the executor's (executor.h).
// Requests that ask for a version are run together, on that one; the others on the live one or its
// canary. Replicas whose device is lost are left out; their requests go back to the front of the
// queue once.
//
// Thread-safe. Made by Batchers when a model appears. Submit never blocks.

#ifndef SCONCE_SERVER_BATCHING_BATCHER_H_
#define SCONCE_SERVER_BATCHING_BATCHER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/base/clock.h"
#include "server/base/metrics.h"
#include "server/base/mutex.h"
#include "server/batching/answering.h"
#include "server/batching/batch_policy.h"
#include "server/batching/dispatch_policy.h"
#include "server/batching/executor.h"
#include "server/batching/request.h"
#include "server/batching/request_queue.h"
#include "server/batching/watchdog.h"
#include "server/registry/model.h"

namespace sconce {

class Batcher {
 public:
  // Told, without a lock held, that no replica of a version that answers works any more; perhaps
  // several times.
  using OnDevicesLost = std::function<void(const std::shared_ptr<Model>& model,
                                           const std::shared_ptr<const ModelVersion>& version,
                                           const std::string& reason)>;

  Batcher(std::shared_ptr<Model> model, ModelMetrics* metrics, const Clock* clock,
          OnDevicesLost on_devices_lost);
  // Answers what still waits with UNAVAILABLE and ends the executors.
  ~Batcher();

  // Queues the request; `done` is called at once, with UNAVAILABLE, where the queue is full or the
  // version is not served, and with RESOURCE_EXHAUSTED where no replica has memory for that many
  // rows. A request whose version is withdrawn while it waits gets NOT_FOUND.
  void Submit(InferRequest request);

  // Has as many executors as the largest of the versions that answer has replicas.
  void OnVersionChanged();

  // Takes replicas that do not work any more out of service.
  void CheckHealth();

  // Returns once no batch is under way, and lets none begin before Release; requests that can no
  // longer meet their deadline are given up meanwhile, as ever. DEADLINE_EXCEEDED where that takes
  // longer than `patience`, NOT_FOUND where the model is removed, FAILED_PRECONDITION while
  // somebody else holds: then there is nothing to release.
  absl::Status Hold(Duration patience);
  void Release();

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
  // Gives up what need not wait for a batch; false where there is nothing.
  bool GiveUp(TimePoint now, Closing* closing) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  BatchPlan Plan(const Slot* slot, TimePoint now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The executor whose turn it is to take the first request that an available one can take.
  std::optional<size_t> Next(TimePoint now) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Wakes that one, if it has something to do.
  void Call(std::optional<size_t> executor) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Brings what is known of the versions up to date, if others answer than before.
  void Follow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!stopped_ && model_->serving_change() != serving_change_) FollowChange();
  }
  void FollowChange() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Fit(Slot* slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool AnyUnderWay() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Why the request cannot be queued; OK where it can.
  absl::Status Check(const InferRequest& request) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status NotServed() const;
  absl::Status NotServed(absl::string_view reason) const;
  // Puts requests whose device was lost back to the front of the queue, or answers them.
  void PutBack(RefusedRequests lost);
  void Refuse(RefusedRequests* refused);

  const std::shared_ptr<Model> model_;
  ModelMetrics* const metrics_;
  const Clock* const clock_;
  const OnDevicesLost on_devices_lost_;

  Mutex mutex_;
  RequestQueue queue_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t batches_ ABSL_GUARDED_BY(mutex_) = 0;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  CondVar idle_;  // while held: nothing is under way any more
  Answering answering_ ABSL_GUARDED_BY(mutex_);
  uint64_t serving_change_ ABSL_GUARDED_BY(mutex_) = 0;
  // By the executor's index; only grow. Those that no version has a replica for that works rest.
  std::vector<std::unique_ptr<Slot>> slots_ ABSL_GUARDED_BY(mutex_);
  std::vector<ExecutorLoad> loads_ ABSL_GUARDED_BY(mutex_);
  // Room for Plan and Next; kept for the sake of its memory.
  std::vector<BatchLimits> limits_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_BATCHER_H_
