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

void RecentRequests::Add(RecentRequest request) {
  const int64_t size_bytes = SizeOf(request);
  if (size_bytes > kMaxBytes) return;
  auto kept = std::make_shared<const RecentRequest>(std::move(request));
  MutexLock lock(&mutex_);
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
}

}  // namespace sconce
