// RecentRequests: the last requests of a model with the answers they got, for new versions to be
// compared with. Kept in memory only, and only where the model's configuration asks for it.
//
// Thread-safe. Owned by Model; written by executors, read by loads.

#ifndef SCONCE_SERVER_REGISTRY_RECENT_REQUESTS_H_
#define SCONCE_SERVER_REGISTRY_RECENT_REQUESTS_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "server/base/clock.h"
#include "server/base/dtype.h"
#include "server/base/mutex.h"

namespace sconce {

// A tensor with memory of its own.
struct KeptTensor {
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;
};

struct RecentRequest {
  int64_t version = 0;          // that answered it
  std::string weights_id = {};  // of that version
  // In the signature's order.
  std::vector<KeptTensor> inputs = {};
  std::vector<KeptTensor> outputs = {};
};

class RecentRequests {
 public:
  // The most that is kept of one model, whatever its configuration says.
  static constexpr int64_t kMaxBytes = int64_t{64} << 20;

  // How many are kept from now on; those beyond are dropped. 0, as at the start: none.
  void SetCapacity(int32_t requests);
  // Whether a request answered at `now` is worth copying; says yes to one caller at a time. Once as
  // many are kept as may be, only one in kInterval is, so that the copying of a busy model's
  // requests takes a bounded share of a processor. Takes no lock.
  bool Wants(TimePoint now);

  // Requests that another version answered are dropped: nobody compares with them any more.
  void Add(RecentRequest request);
  // Of that version, the newest last.
  std::vector<std::shared_ptr<const RecentRequest>> Of(int64_t version,
                                                       const std::string& weights_id) const;

 private:
  static constexpr std::chrono::milliseconds kInterval{10};

  void Trim() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::atomic<bool> wanted_{false};
  std::atomic<bool> full_{false};
  std::atomic<TimePoint> next_{TimePoint{}};
  mutable Mutex mutex_;
  int32_t capacity_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t size_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<std::shared_ptr<const RecentRequest>> requests_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_RECENT_REQUESTS_H_
