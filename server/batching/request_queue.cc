#include "server/batching/request_queue.h"

#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "server/batching/request_check.h"

namespace sconce {
namespace {

// Beside the number of requests: a queue of large ones must not take the machine's memory.
constexpr int64_t kMaxWaitingBytes = int64_t{1} << 30;

int64_t BytesOf(const InferRequest& request) {
  int64_t bytes = 0;
  for (const int64_t size : request.checked.size_bytes) bytes += size;
  return bytes;
}

}  // namespace

absl::Status RequestQueue::CheckRoom(const InferRequest& request) const {
  const int64_t bytes = BytesOf(request);
  const int64_t most = request.checked_against->config.max_queue_size;
  if (static_cast<int64_t>(waiting_.size()) < most &&
      bytes_ + bytes <= std::max(kMaxWaitingBytes, bytes)) {
    return absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrCat(
      "model '", model_, "': the queue is full: ", waiting_.size(), " requests of ", bytes_,
      " bytes wait, expected at most ", most, " requests and ", kMaxWaitingBytes, " bytes"));
}

void RequestQueue::Count(const InferRequest& request, int64_t times) {
  rows_ += times * request.checked.rows;
  bytes_ += times * BytesOf(request);
}

void RequestQueue::Add(InferRequest request) {
  Count(request, 1);
  metrics_->AddQueueDepth(1);
  waiting_.push_back(std::move(request));
}

void RequestQueue::PutBack(InferRequest request) {
  Count(request, 1);
  metrics_->AddQueueDepth(1);
  const auto later = std::find_if(waiting_.begin(), waiting_.end(), [&](const auto& other) {
    return other.arrival > request.arrival;
  });
  waiting_.insert(later, std::move(request));
}

absl::Span<const WaitingRequest> RequestQueue::Snapshot(const Answering& answering) {
  snapshot_.clear();
  for (const InferRequest& request : waiting_) {
    snapshot_.push_back({.rows = request.checked.rows,
                         .version = answering.IndexOf(request.wanted_version),
                         .shape_key = request.shape_key,
                         .open_sizes = request.open_sizes,
                         .deadline = request.deadline,
                         .cancelled = request.cancelled != nullptr &&
                                      request.cancelled->load(std::memory_order_relaxed)});
  }
  return snapshot_;
}

std::vector<InferRequest> RequestQueue::Take(const BatchPlan& plan, const ModelVersion& version,
                                             const Answering& answering, TimePoint now,
                                             RefusedRequests* refused) {
  taken_.assign(waiting_.size(), false);
  const auto take = [&](size_t i) -> InferRequest&& {
    taken_[i] = true;
    Count(waiting_[i], -1);
    return std::move(waiting_[i]);
  };
  for (const size_t i : plan.cancelled) {
    refused->emplace_back(take(i), absl::CancelledError("the client went away"));
  }
  for (const size_t i : plan.late) {
    const double waited = ToSeconds(now - waiting_[i].arrival);
    refused->emplace_back(
        take(i), absl::DeadlineExceededError(absl::StrCat(
                     "model '", model_, "': the deadline cannot be met any more after ", waited,
                     " s in the queue")));
  }
  for (const size_t i : plan.too_large) {
    const size_t index = answering.IndexOf(waiting_[i].wanted_version);
    refused->emplace_back(take(i), answering.TooLarge(index));
  }
  for (const size_t i : plan.gone) {
    const int64_t wanted = waiting_[i].wanted_version;
    refused->emplace_back(take(i), answering.Gone(wanted));
  }

  std::vector<InferRequest> batch;
  batch.reserve(plan.take.size());
  for (const size_t i : plan.take) {
    InferRequest request = take(i);
    absl::Status fits = CheckAgainst(version, &request);
    if (fits.ok()) fits = CheckDeviceBytes(version, request);
    if (fits.ok()) {
      batch.push_back(std::move(request));
    } else {
      refused->emplace_back(std::move(request), std::move(fits));
    }
  }
  Close();
  return batch;
}

void RequestQueue::Close() {
  size_t kept = 0;
  for (size_t i = 0; i < taken_.size(); ++i) {
    if (taken_[i]) continue;
    if (kept != i) waiting_[kept] = std::move(waiting_[i]);
    ++kept;
  }
  metrics_->AddQueueDepth(static_cast<int64_t>(kept) - static_cast<int64_t>(waiting_.size()));
  waiting_.resize(kept);
}

RefusedRequests RequestQueue::TakeAll(const absl::Status& status) {
  RefusedRequests all;
  metrics_->AddQueueDepth(-static_cast<int64_t>(waiting_.size()));
  for (InferRequest& request : waiting_) {
    Count(request, -1);
    all.emplace_back(std::move(request), status);
  }
  waiting_.clear();
  return all;
}

RefusedRequests RequestQueue::TakeOf(const ModelVersion& version, const Answering& answering,
                                     const absl::Status& status) {
  RefusedRequests refused;
  taken_.assign(waiting_.size(), false);
  for (size_t i = 0; i < waiting_.size(); ++i) {
    const size_t index = answering.IndexOf(waiting_[i].wanted_version);
    if (index == answering.versions().size()) continue;
    if (answering.versions()[index].version.get() != &version) continue;
    taken_[i] = true;
    Count(waiting_[i], -1);
    refused.emplace_back(std::move(waiting_[i]), status);
  }
  Close();
  return refused;
}

TimePoint RequestQueue::FirstDeadline() const {
  TimePoint first = TimePoint::max();
  for (const InferRequest& request : waiting_) first = std::min(first, request.deadline);
  return first;
}

}  // namespace sconce
