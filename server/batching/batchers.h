// Batchers: the batcher of each model in the registry.
// Thread-safe. Owned by App; observes the registry.

#ifndef SCONCE_SERVER_BATCHING_BATCHERS_H_
#define SCONCE_SERVER_BATCHING_BATCHERS_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/clock.h"
#include "server/base/metrics.h"
#include "server/base/mutex.h"
#include "server/batching/batcher.h"
#include "server/batching/watchdog.h"
#include "server/registry/execution_gate.h"
#include "server/registry/registry.h"

namespace sconce {

class Batchers : public RegistryObserver, public ExecutionGate {
 public:
  Batchers(Metrics* metrics, const Clock* clock, Batcher::OnDevicesLost on_devices_lost = {})
      : metrics_(metrics), clock_(clock), on_devices_lost_(std::move(on_devices_lost)) {}

  // Null if there is no such model.
  std::shared_ptr<Batcher> Find(const std::string& model) const;

  // To be called when a device is lost, so that a model without requests hears of it too.
  void CheckHealth() const;

  // What all models have under way.
  std::vector<WatchedBatch> UnderWay() const;

  absl::StatusOr<std::unique_ptr<BatchHold>> HoldBatches(const std::string& model,
                                                         Duration patience) override;

  void OnModelAdded(const std::shared_ptr<Model>& model) override;
  void OnModelRemoved(const std::shared_ptr<Model>& model) override;
  void OnModelChanged(const std::shared_ptr<Model>& model) override;
  void OnReadyChanged(bool) override {}

 private:
  std::vector<std::shared_ptr<Batcher>> All() const;

  Metrics* const metrics_;
  const Clock* const clock_;
  const Batcher::OnDevicesLost on_devices_lost_;
  mutable Mutex mutex_;
  std::map<std::string, std::shared_ptr<Batcher>> batchers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_BATCHERS_H_
