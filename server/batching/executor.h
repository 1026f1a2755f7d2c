// Executor: the batches that one executor thread has under way, from launching them to the answers,
// and what becomes of those that fail:
//  - out of memory: the batch is tried again with nothing else under way, then in halves, down to
//    single requests, which fail alone;
//  - the device is lost: the requests are handed back, to be run elsewhere;
//  - anything else fails the batch.
//
// Not thread-safe. Owned by Batcher; used by its thread alone.

#ifndef SCONCE_SERVER_BATCHING_EXECUTOR_H_
#define SCONCE_SERVER_BATCHING_EXECUTOR_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/base/clock.h"
#include "server/base/metrics.h"
#include "server/base/numa.h"
#include "server/batching/batch_assembly.h"
#include "server/batching/batch_policy.h"
#include "server/batching/request.h"
#include "server/batching/request_queue.h"
#include "server/registry/model.h"

namespace sconce {

// Requests that are run together, on one version.
struct Batch {
  // Pinned until the device has done with `running`.
  std::shared_ptr<const ModelVersion> version;
  // What its requests asked for; 0: no version in particular, or the live one.
  int64_t wanted = 0;
  // The version is the live one.
  bool live = false;
  // To be told what became of the batch; null: nobody.
  std::shared_ptr<CanaryTrial> trial = nullptr;
  std::vector<InferRequest> requests;
  int64_t rows = 0;
  BatchLayout layout = {};  // once it is launched
  TimePoint closed{};
  TimePoint assembled{};
  TimePoint computed{};
  TimePoint expected_end{};
  Duration compute{};  // without waiting for the batch before
  // It ran out of memory before: nothing else may be under way with it.
  bool alone = false;
  std::unique_ptr<RunningBatch> running;
};

// Answers a request with an error.
void Refuse(InferRequest& request, const absl::Status& status, const Clock& clock, Model* model);

int64_t RowsOf(const std::vector<InferRequest>& requests);

class Executor {
 public:
  // Runs on the replica `index` of each version.
  Executor(size_t index, std::shared_ptr<Model> model, ModelMetrics* metrics, const Clock* clock);

  size_t index() const { return index_; }

  // Returns when another batch may be launched: where as many are under way as may be, after the
  // first of them has ended.
  void Launch(Batch batch);

  // Waits for the first batch under way. It is answered, unless that leaves a device idle that
  // could have the next batch meanwhile: then HasAnswers. REQUIRES: under_way() > 0.
  void Finish();

  // Whether SendAnswers has something to do. Launch does the same, once the batch is launched.
  bool HasAnswers() const { return finished_.has_value(); }
  void SendAnswers();

  int under_way() const { return static_cast<int>(under_way_.size()); }
  int64_t rows_under_way() const;
  // What DecideStep needs to know. `work`, `full`: as there; `rows` of the next batch.
  ExecutorSituation Situation(bool work, bool full, int64_t rows, TimePoint now) const;
  // When the device is free for the next batch, as far as is known.
  TimePoint FreeAt(TimePoint now) const;
  // Of batches for requests that want that version; null: nothing is known.
  const ServiceTimes* compute_times(int64_t wanted) const;

  bool HasLost() const { return !lost_.empty(); }
  // Requests whose device was lost, not answered yet, each with the UNAVAILABLE that it is to be
  // answered with unless it can be run elsewhere.
  RefusedRequests TakeLost();

 private:
  struct Finished {
    Batch batch;
    std::vector<HostTensor> outputs;
  };

  Replica& ReplicaOf(const Batch& batch) const { return *batch.version->replicas[index_]; }
  void LaunchOne(Batch&& batch);
  void FinishFirst();
  void Settle();
  void Fail(Batch batch, const absl::Status& status);
  void Answer(const Finished& finished);
  void Record(const Finished& finished, absl::Span<const InferResponse> responses);
  Duration LeastCompute(const Batch& batch, TimePoint now) const;

  const size_t index_;
  const std::shared_ptr<Model> model_;
  ModelMetrics* const metrics_;
  const Clock* const clock_;

  NumaBinding numa_;
  // Of the replica that was used last.
  int depth_ = 1;
  std::deque<Batch> under_way_;  // in the order of their launch
  std::deque<Batch> again_;      // to be launched when nothing is under way
  std::optional<Finished> finished_;
  RefusedRequests lost_;
  TimePoint last_computed_{};
  ServiceTimes assemble_times_;
  // By the version that was wanted: those that answer side by side may be different networks.
  std::map<int64_t, ServiceTimes> compute_times_;
  // Of the batch that is being answered; kept for the sake of their memory.
  std::vector<InferResponse> responses_;
  std::vector<Duration> queued_;
  std::vector<Duration> total_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_EXECUTOR_H_
