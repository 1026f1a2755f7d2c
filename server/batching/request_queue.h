// RequestQueue: one model's requests that wait for a batch, in order of arrival.
//
// Not thread-safe. Owned by Batcher, which guards it.

#ifndef SCONCE_SERVER_BATCHING_REQUEST_QUEUE_H_
#define SCONCE_SERVER_BATCHING_REQUEST_QUEUE_H_

#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "server/base/clock.h"
#include "server/base/metrics.h"
#include "server/batching/batch_policy.h"
#include "server/batching/request.h"

namespace sconce {

// Requests that are to be answered with an error.
using Refusals = std::vector<std::pair<InferRequest, absl::Status>>;

class RequestQueue {
 public:
  RequestQueue(std::string model, ModelMetrics* metrics)
      : model_(std::move(model)), metrics_(metrics) {}

  bool empty() const { return waiting_.empty(); }
  int64_t rows() const { return rows_; }
  const std::deque<InferRequest>& requests() const { return waiting_; }

  // UNAVAILABLE where there is no room for the request.
  absl::Status CheckRoom(const InferRequest& request) const;
  void Add(InferRequest request);
  // Adds a request that was taken before, where it was by its arrival.
  void PutBack(InferRequest request);

  // For PlanBatch; valid until the queue changes.
  std::vector<WaitingRequest> Snapshot() const;

  // Takes out what the plan, made of a snapshot just taken, names: the batch, less what `version`
  // refuses, and what is given up. A request that is too large is refused with `too_large`.
  std::vector<InferRequest> Take(const BatchPlan& plan, const ModelVersion& version, TimePoint now,
                                 const absl::Status& too_large, Refusals* refused);

  // Takes out all, to be refused with `status`.
  Refusals TakeAll(const absl::Status& status);

 private:
  void Count(const InferRequest& request, int64_t times);

  const std::string model_;
  ModelMetrics* const metrics_;
  std::deque<InferRequest> waiting_;
  int64_t rows_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_REQUEST_QUEUE_H_
