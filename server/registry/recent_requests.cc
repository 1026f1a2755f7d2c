#include "server/registry/recent_requests.h"

#include <utility>

namespace sconce {
namespace {

int64_t SizeOf(const RecentRequest& request) {
  int64_t size_bytes = 0;
  for (const std::vector<KeptTensor>* tensors : {&request.inputs, &request.outputs}) {
    for (const KeptTensor& tensor : *tensors)
      size_bytes += static_cast<int64_t>(tensor.bytes.size());
  }
  return size_bytes;
}

}  // namespace

void RecentRequests::SetCapacity(int32_t requests) {
  MutexLock lock(&mutex_);
  capacity_ = requests;
  wanted_.store(requests > 0, std::memory_order_relaxed);
  Trim();
}

bool RecentRequests::Wants(TimePoint now) {
  if (!wanted_.load(std::memory_order_relaxed)) return false;
  if (!full_.load(std::memory_order_relaxed)) return true;
  TimePoint next = next_.load(std::memory_order_relaxed);
  return now >= next &&
         next_.compare_exchange_strong(next, now + kInterval, std::memory_order_relaxed);
}

void RecentRequests::Add(RecentRequest request) {
  const int64_t size_bytes = SizeOf(request);
  if (size_bytes > kMaxBytes) return;
  auto kept = std::make_shared<const RecentRequest>(std::move(request));
  MutexLock lock(&mutex_);
  if (!requests_.empty() && (requests_.back()->version != kept->version ||
                             requests_.back()->weights_id != kept->weights_id)) {
    requests_.clear();
    size_bytes_ = 0;
  }
  size_bytes_ += size_bytes;
  requests_.push_back(std::move(kept));
  Trim();
}

std::vector<std::shared_ptr<const RecentRequest>> RecentRequests::Of(
    int64_t version, const std::string& weights_id) const {
  std::vector<std::shared_ptr<const RecentRequest>> found;
  MutexLock lock(&mutex_);
  for (const auto& request : requests_) {
    if (request->version == version && request->weights_id == weights_id) found.push_back(request);
  }
  return found;
}

void RecentRequests::Trim() {
  while (!requests_.empty() &&
         (static_cast<int64_t>(requests_.size()) > capacity_ || size_bytes_ > kMaxBytes)) {
    size_bytes_ -= SizeOf(*requests_.front());
    requests_.pop_front();
  }
  full_.store(static_cast<int64_t>(requests_.size()) >= capacity_, std::memory_order_relaxed);
}

}  // namespace sconce
