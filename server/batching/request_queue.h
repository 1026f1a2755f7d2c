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
#include "absl/types/span.h"
#include "server/base/clock.h"
#include "server/base/metrics.h"
#include "server/batching/answering.h"
#include "server/batching/batch_policy.h"
#include "server/batching/request.h"

namespace sconce {

// Requests that are to be answered with an error.
using RefusedRequests = std::vector<std::pair<InferRequest, absl::Status>>;

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

  // For PlanBatch, with the versions that answer; valid until the queue changes.
  absl::Span<const WaitingRequest> Snapshot(const Answering& answering);

  // Takes out what the plan, made of a snapshot just taken, names: the batch, less what `version`
  // refuses, and what is given up.
  std::vector<InferRequest> Take(const BatchPlan& plan, const ModelVersion& version,
                                 const Answering& answering, TimePoint now,
                                 RefusedRequests* refused);

  // Takes out all, to be refused with `status`.
  RefusedRequests TakeAll(const absl::Status& status);
  // Takes out those that are to be run on `version`.
  RefusedRequests TakeOf(const ModelVersion& version, const Answering& answering,
                         const absl::Status& status);

  // Of all that wait.
  TimePoint FirstDeadline() const;

 private:
  void Count(const InferRequest& request, int64_t times);
  // Closes the gaps that the requests in taken_ leave.
  void Close();

  const std::string model_;
  ModelMetrics* const metrics_;
  std::deque<InferRequest> waiting_;
  int64_t rows_ = 0;
  int64_t bytes_ = 0;
  // Kept for the sake of their memory.
  std::vector<WaitingRequest> snapshot_;
  std::vector<bool> taken_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_REQUEST_QUEUE_H_
