// SeenNetworks: which networks have run every batch size on the CPU in this process, so that the
// next versions of them need not. Thread-safe. Owned by the loader.

#ifndef SCONCE_SERVER_LOADER_SEEN_NETWORKS_H_
#define SCONCE_SERVER_LOADER_SEEN_NETWORKS_H_

#include <algorithm>
#include <cstdint>
#include <deque>
#include <string>

#include "server/base/mutex.h"
#include "server/device/execution_options.h"
#include "server/registry/model_version.h"
#include "server/registry/signature.h"

namespace sconce {

class SeenNetworks {
 public:
  // Whether a network with the version's architecture and configuration has.
  bool Has(const ModelVersion& version) const {
    MutexLock lock(&mutex_);
    return std::find(seen_.begin(), seen_.end(), KeyOf(version)) != seen_.end();
  }

  void Add(const ModelVersion& version) {
    MutexLock lock(&mutex_);
    const Key key = KeyOf(version);
    if (std::find(seen_.begin(), seen_.end(), key) != seen_.end()) return;
    if (seen_.size() == kMost) seen_.pop_front();
    seen_.push_back(key);
  }

 private:
  // More than a server has models; what is forgotten is run again.
  static constexpr size_t kMost = 256;

  struct Key {
    std::string architecture;
    Signature signature;
    ExecutionOptions execution;
    int64_t max_batch_size = 0;

    bool operator==(const Key&) const = default;
  };
  static Key KeyOf(const ModelVersion& version) {
    return {version.architecture, version.signature, version.config.execution,
            version.config.max_batch_size};
  }

  mutable Mutex mutex_;
  std::deque<Key> seen_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_SEEN_NETWORKS_H_
