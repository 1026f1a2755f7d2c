// Every metric the server exports: names, help texts, labels and buckets stand in metrics.cc alone.
// Components get typed handles once and update them without a look-up.
//
// Thread-safe. Owned by App; handles live as long as it does. Label values are bounded: model names
// come from the repository, never from a request.

#ifndef SCONCE_SERVER_BASE_METRICS_H_
#define SCONCE_SERVER_BASE_METRICS_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/base/mutex.h"
#include "server/base/version_state.h"

namespace prometheus {
class Counter;
class Gauge;
class Histogram;
class Registry;
template <typename T>
class Family;
}  // namespace prometheus

namespace sconce {

// Where the time of an answered request goes.
enum class RequestPhase { kQueue, kAssemble, kCompute, kRespond, kTotal };
// How an attempt to bring a weights file into service ended.
enum class LoadOutcome {
  kPublished,
  kRejected,   // not tried again until the file changes
  kRetrying,   // failed for a reason that may pass
  kNoMemory,   // not admitted: it would not have fitted; tried again too
  kHeld,       // proven, and not promoted yet
  kWithdrawn,  // a canary that did worse than the version it was to replace
};
// What a GPU reports of itself, beside its memory.
enum class DeviceFigure {
  kComputeUtilisation,
  kMemoryUtilisation,
  kTemperature,
  kPower,
  kEccCorrected,
  kEccUncorrected,
};

// What the version that serves takes of a device's memory, or for it.
struct ModelMemory {
  std::string device;  // "cuda:0"
  std::string kind;    // "weights", "workspace", "graphs", "staging"
  int64_t bytes = 0;
};

// How far a version that answers is from its network unprepared.
struct VersionDeviation {
  int64_t version = 0;
  std::string device;
  double absolute = 0;
  double relative = 0;
};

// The handles of one model.
class ModelMetrics {
 public:
  void CountRequest(absl::StatusCode code);
  void ObservePhase(RequestPhase phase, double seconds);
  void ObserveBatchRows(int64_t rows);
  void AddQueueDepth(int64_t requests);
  void AddInFlight(int64_t requests);
  void CountOutOfMemory();
  void SetOverdueBatches(int64_t batches);
  void CountLoad(LoadOutcome outcome);
  // `state`: the step that was taken, which is one from kSettling to kChecked, or kPublished.
  void ObserveStep(VersionState state, double seconds);
  // What a load's weights took of new memory, and what it found in memory already.
  void CountWeightBytes(int64_t read_bytes, int64_t shared_bytes);
  // How many of the model's versions are in each state now.
  void SetVersions(const std::array<int64_t, kVersionStates>& versions);
  // Replaces the info series of the version served so far; version 0 removes it.
  void SetServingVersion(int64_t version, const std::string& weights_id);
  // Replaces the series of the version served so far.
  void SetMemory(const std::vector<ModelMemory>& memory);
  // Replaces the series of the versions that answered so far.
  void SetDeviations(const std::vector<VersionDeviation>& deviations);

 private:
  friend class Metrics;
  class Families;
  ModelMetrics(Families* families, std::string model);
  prometheus::Counter& RequestCounter(absl::StatusCode code);

  Families* const families_;
  const std::string model_;
  std::array<std::atomic<prometheus::Counter*>, 17> requests_{};
  std::array<prometheus::Histogram*, 5> phases_{};
  prometheus::Histogram* batch_rows_ = nullptr;
  prometheus::Gauge* queue_depth_ = nullptr;
  prometheus::Gauge* in_flight_ = nullptr;
  prometheus::Counter* out_of_memory_ = nullptr;
  prometheus::Gauge* overdue_batches_ = nullptr;
  std::array<prometheus::Counter*, 6> loads_{};
  std::array<prometheus::Histogram*, kVersionStates> steps_{};  // null for those without time
  std::array<prometheus::Counter*, 2> weight_bytes_{};
  std::array<prometheus::Gauge*, kVersionStates> versions_{};
  Mutex mutex_;
  prometheus::Gauge* serving_version_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::vector<prometheus::Gauge*> memory_ ABSL_GUARDED_BY(mutex_);
  std::vector<prometheus::Gauge*> deviations_ ABSL_GUARDED_BY(mutex_);
};

class Metrics {
 public:
  Metrics();
  ~Metrics();

  // The handles of `model`, made at the first call and kept: counters go on across reloads.
  ModelMetrics* ForModel(const std::string& model);

  // Requests for a model that is not there; not labelled with what the client sent.
  void CountUnknownModel();
  void SetDeviceLost(const std::string& device, bool lost);
  void SetDeviceMemory(const std::string& device, int64_t used_bytes, int64_t total_bytes);
  // Without a value there is no series: a card that does not report a figure has none.
  void SetDeviceFigure(const std::string& device, DeviceFigure figure, std::optional<double> value);

  // The Prometheus text exposition format, version 0.0.4.
  std::string Serialize() const;

 private:
  std::shared_ptr<prometheus::Registry> registry_;
  std::unique_ptr<ModelMetrics::Families> families_;
  Mutex mutex_;
  std::map<std::string, std::unique_ptr<ModelMetrics>> models_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_BASE_METRICS_H_
