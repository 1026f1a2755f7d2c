#include "server/base/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <utility>

namespace sconce {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;
using prometheus::Histogram;

// 50 us to 10 s: a tiny model's batch takes less than 100 us, a large one's seconds.
const Histogram::BucketBoundaries kRequestSeconds = {
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
    0.05,    0.1,    0.25,    0.5,    1,     2.5,    5,     10};
const Histogram::BucketBoundaries kLoadSeconds = {0.001, 0.01, 0.1, 0.25, 0.5, 1,
                                                  2.5,   5,    10,  30,   60,  300};
const Histogram::BucketBoundaries kRows = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512};

constexpr std::array kRequestPhaseNames = {"queue", "assemble", "compute", "respond", "total"};
constexpr std::array kLoadOutcomeNames = {"published", "rejected", "retrying",
                                          "no_memory", "held",     "withdrawn"};
constexpr std::array kWeightSources = {"read", "shared"};

bool TakesTime(VersionState state) {
  return (state >= VersionState::kSettling && state <= VersionState::kChecked) ||
         state == VersionState::kPublished;
}

// gRPC's names of its codes, by value.
constexpr std::array kCodeNames = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

}  // namespace

class ModelMetrics::Families {
 public:
  explicit Families(prometheus::Registry& r)
      : requests(BuildCounter()
                     .Name("sconce_requests_total")
                     .Help("Inference requests answered, by model and gRPC status code.")
                     .Register(r)),
        unknown_model(BuildCounter()
                          .Name("sconce_unknown_model_requests_total")
                          .Help("Inference requests for a model that is not in the repository.")
                          .Register(r)
                          .Add({})),
        phases(
            BuildHistogram()
                .Name("sconce_request_phase_seconds")
                .Help(
                    "Time of answered requests by phase: queue, assemble, compute, respond, total.")
                .Register(r)),
        batch_rows(BuildHistogram()
                       .Name("sconce_batch_rows")
                       .Help("Rows per executed batch.")
                       .Register(r)),
        queue_depth(BuildGauge()
                        .Name("sconce_queue_depth")
                        .Help("Requests that wait for a batch.")
                        .Register(r)),
        in_flight(BuildGauge()
                      .Name("sconce_requests_in_flight")
                      .Help("Requests accepted and not answered yet, waiting ones included.")
                      .Register(r)),
        out_of_memory(BuildCounter()
                          .Name("sconce_out_of_memory_batches_total")
                          .Help("Batches that ran out of the device's memory: tried again in "
                                "smaller ones, or failed where one request alone is too much.")
                          .Register(r)),
        overdue_batches(BuildGauge()
                            .Name("sconce_overdue_batches")
                            .Help("Batches that a device has not returned for 30 s or more.")
                            .Register(r)),
        loads(BuildCounter()
                  .Name("sconce_loads_total")
                  .Help("Attempts to bring a weights file into service, by outcome: published, "
                        "rejected (not tried again until the file changes), retrying, no_memory, "
                        "held (waits to be promoted), withdrawn (a canary).")
                  .Register(r)),
        steps(BuildHistogram()
                  .Name("sconce_load_step_seconds")
                  .Help("Time of loads by the step that was taken: settling, structure_checked, "
                        "admitted, read, loaded, prepared, warmed, checked, published.")
                  .Register(r)),
        weight_bytes(BuildCounter()
                         .Name("sconce_load_weight_bytes_total")
                         .Help("Weights of new versions: read into memory of their own, or shared "
                               "with versions that had them already.")
                         .Register(r)),
        versions(BuildGauge()
                     .Name("sconce_versions")
                     .Help("Versions of a model by the state they are in now, from seen to "
                           "published and retained.")
                     .Register(r)),
        serving_version(BuildGauge()
                            .Name("sconce_serving_version_info")
                            .Help("1 for the version and weights that answer now.")
                            .Register(r)),
        device_lost(BuildGauge()
                        .Name("sconce_device_lost")
                        .Help("1 for a device that reported a fault that stays until the process "
                              "ends; else 0.")
                        .Register(r)),
        model_memory(BuildGauge()
                         .Name("sconce_model_memory_bytes")
                         .Help("Memory of the version that serves, as measured when it was loaded, "
                               "by device and kind: weights, workspace, graphs, staging "
                               "(page-locked memory of the host).")
                         .Register(r)),
        prepared_deviation(
            BuildGauge()
                .Name("sconce_prepared_deviation")
                .Help("Largest deviation of the outputs of a version that was prepared (folded, "
                      "cast, laid out anew) from those of the same weights unprepared, as measured "
                      "when it was loaded, by device and measure: absolute, or relative to the "
                      "largest output.")
                .Register(r)),
        device_memory(BuildGauge()
                          .Name("sconce_device_memory_bytes")
                          .Help("Memory of a device, by state: used, total. For the CPU, used is "
                                "the resident memory of the process.")
                          .Register(r)),
        device_utilisation(BuildGauge()
                               .Name("sconce_device_utilisation_ratio")
                               .Help("Share of time a GPU's part was in use, as NVML samples it: "
                                     "compute, memory.")
                               .Register(r)),
        device_temperature(BuildGauge()
                               .Name("sconce_device_temperature_celsius")
                               .Help("Temperature of a GPU, from NVML.")
                               .Register(r)),
        device_power(BuildGauge()
                         .Name("sconce_device_power_watts")
                         .Help("Power a GPU draws, from NVML.")
                         .Register(r)),
        device_ecc_errors(
            BuildGauge()
                .Name("sconce_device_ecc_errors")
                .Help("Memory errors of a GPU since its driver was loaded, from NVML: "
                      "corrected, uncorrected.")
                .Register(r)) {}

  prometheus::Family<prometheus::Counter>& requests;
  prometheus::Counter& unknown_model;
  prometheus::Family<Histogram>& phases;
  prometheus::Family<Histogram>& batch_rows;
  prometheus::Family<prometheus::Gauge>& queue_depth;
  prometheus::Family<prometheus::Gauge>& in_flight;
  prometheus::Family<prometheus::Counter>& out_of_memory;
  prometheus::Family<prometheus::Gauge>& overdue_batches;
  prometheus::Family<prometheus::Counter>& loads;
  prometheus::Family<Histogram>& steps;
  prometheus::Family<prometheus::Counter>& weight_bytes;
  prometheus::Family<prometheus::Gauge>& versions;
  prometheus::Family<prometheus::Gauge>& serving_version;
  prometheus::Family<prometheus::Gauge>& device_lost;
  prometheus::Family<prometheus::Gauge>& model_memory;
  prometheus::Family<prometheus::Gauge>& prepared_deviation;
  prometheus::Family<prometheus::Gauge>& device_memory;
  prometheus::Family<prometheus::Gauge>& device_utilisation;
  prometheus::Family<prometheus::Gauge>& device_temperature;
  prometheus::Family<prometheus::Gauge>& device_power;
  prometheus::Family<prometheus::Gauge>& device_ecc_errors;
};

ModelMetrics::ModelMetrics(Families* families, std::string model)
    : families_(families), model_(std::move(model)) {
  for (size_t i = 0; i < phases_.size(); ++i) {
    phases_[i] = &families_->phases.Add({{"model", model_}, {"phase", kRequestPhaseNames[i]}},
                                        kRequestSeconds);
  }
  batch_rows_ = &families_->batch_rows.Add({{"model", model_}}, kRows);
  queue_depth_ = &families_->queue_depth.Add({{"model", model_}});
  in_flight_ = &families_->in_flight.Add({{"model", model_}});
  out_of_memory_ = &families_->out_of_memory.Add({{"model", model_}});
  overdue_batches_ = &families_->overdue_batches.Add({{"model", model_}});
  for (size_t i = 0; i < loads_.size(); ++i) {
    loads_[i] = &families_->loads.Add({{"model", model_}, {"outcome", kLoadOutcomeNames[i]}});
  }
  for (size_t i = 0; i < weight_bytes_.size(); ++i) {
    weight_bytes_[i] =
        &families_->weight_bytes.Add({{"model", model_}, {"source", kWeightSources[i]}});
  }
  for (size_t i = 0; i < kVersionStates; ++i) {
    const auto state = static_cast<VersionState>(i);
    const std::string name(VersionStateName(state));
    if (TakesTime(state)) {
      steps_[i] = &families_->steps.Add({{"model", model_}, {"step", name}}, kLoadSeconds);
    }
    // Those that are over are counted by sconce_loads_total.
    if (state == VersionState::kRetired || state == VersionState::kRejected) continue;
    versions_[i] = &families_->versions.Add({{"model", model_}, {"state", name}});
  }
  RequestCounter(absl::StatusCode::kOk);  // so that a model nobody asked yet shows a zero
}

prometheus::Counter& ModelMetrics::RequestCounter(absl::StatusCode code) {
  const size_t index = std::min(static_cast<size_t>(code), requests_.size() - 1);
  prometheus::Counter* counter = requests_[index].load(std::memory_order_acquire);
  if (counter == nullptr) {
    // Family::Add gives the same counter to every caller that asks for the same labels.
    counter = &families_->requests.Add({{"model", model_}, {"code", kCodeNames[index]}});
    requests_[index].store(counter, std::memory_order_release);
  }
  return *counter;
}

void ModelMetrics::CountRequest(absl::StatusCode code) { RequestCounter(code).Increment(); }

void ModelMetrics::ObservePhase(RequestPhase phase, double seconds) {
  phases_[static_cast<size_t>(phase)]->Observe(seconds);
}

void ModelMetrics::ObserveBatchRows(int64_t rows) {
  batch_rows_->Observe(static_cast<double>(rows));
}

void ModelMetrics::AddQueueDepth(int64_t requests) {
  queue_depth_->Increment(static_cast<double>(requests));
}

void ModelMetrics::AddInFlight(int64_t requests) {
  in_flight_->Increment(static_cast<double>(requests));
}

void ModelMetrics::CountOutOfMemory() { out_of_memory_->Increment(); }

void ModelMetrics::SetOverdueBatches(int64_t batches) {
  overdue_batches_->Set(static_cast<double>(batches));
}

void ModelMetrics::CountLoad(LoadOutcome outcome) {
  loads_[static_cast<size_t>(outcome)]->Increment();
}

void ModelMetrics::ObserveStep(VersionState state, double seconds) {
  steps_[static_cast<size_t>(state)]->Observe(seconds);
}

void ModelMetrics::CountWeightBytes(int64_t read_bytes, int64_t shared_bytes) {
  weight_bytes_[0]->Increment(static_cast<double>(read_bytes));
  weight_bytes_[1]->Increment(static_cast<double>(shared_bytes));
}

void ModelMetrics::SetVersions(const std::array<int64_t, kVersionStates>& versions) {
  for (size_t i = 0; i < versions.size(); ++i) {
    if (versions_[i] != nullptr) versions_[i]->Set(static_cast<double>(versions[i]));
  }
}

void ModelMetrics::SetServingVersion(int64_t version, const std::string& weights_id) {
  MutexLock lock(&mutex_);
  if (serving_version_ != nullptr) families_->serving_version.Remove(serving_version_);
  serving_version_ = nullptr;
  if (version == 0) return;
  serving_version_ = &families_->serving_version.Add(
      {{"model", model_}, {"version", std::to_string(version)}, {"weights_id", weights_id}});
  serving_version_->Set(1);
}

void ModelMetrics::SetMemory(const std::vector<ModelMemory>& memory) {
  MutexLock lock(&mutex_);
  for (prometheus::Gauge* const gauge : memory_) families_->model_memory.Remove(gauge);
  memory_.clear();
  for (const ModelMemory& part : memory) {
    memory_.push_back(&families_->model_memory.Add(
        {{"model", model_}, {"device", part.device}, {"kind", part.kind}}));
    memory_.back()->Set(static_cast<double>(part.bytes));
  }
}

void ModelMetrics::SetDeviations(const std::vector<VersionDeviation>& deviations) {
  MutexLock lock(&mutex_);
  for (prometheus::Gauge* const gauge : deviations_) families_->prepared_deviation.Remove(gauge);
  deviations_.clear();
  for (const VersionDeviation& deviation : deviations) {
    for (const auto& [measure, value] :
         {std::pair("absolute", deviation.absolute), {"relative", deviation.relative}}) {
      deviations_.push_back(
          &families_->prepared_deviation.Add({{"model", model_},
                                              {"version", std::to_string(deviation.version)},
                                              {"device", deviation.device},
                                              {"measure", measure}}));
      deviations_.back()->Set(value);
    }
  }
}

Metrics::Metrics()
    : registry_(std::make_shared<prometheus::Registry>()),
      families_(std::make_unique<ModelMetrics::Families>(*registry_)) {}

Metrics::~Metrics() = default;

ModelMetrics* Metrics::ForModel(const std::string& model) {
  MutexLock lock(&mutex_);
  std::unique_ptr<ModelMetrics>& slot = models_[model];
  if (slot == nullptr) slot.reset(new ModelMetrics(families_.get(), model));
  return slot.get();
}

void Metrics::CountUnknownModel() { families_->unknown_model.Increment(); }

void Metrics::SetDeviceLost(const std::string& device, bool lost) {
  families_->device_lost.Add({{"device", device}}).Set(lost ? 1 : 0);
}

void Metrics::SetDeviceMemory(const std::string& device, int64_t used_bytes, int64_t total_bytes) {
  families_->device_memory.Add({{"device", device}, {"state", "used"}})
      .Set(static_cast<double>(used_bytes));
  families_->device_memory.Add({{"device", device}, {"state", "total"}})
      .Set(static_cast<double>(total_bytes));
}

void Metrics::SetDeviceFigure(const std::string& device, DeviceFigure figure,
                              std::optional<double> value) {
  prometheus::Family<prometheus::Gauge>* family = nullptr;
  prometheus::Labels labels = {{"device", device}};
  switch (figure) {
    case DeviceFigure::kComputeUtilisation:
    case DeviceFigure::kMemoryUtilisation:
      family = &families_->device_utilisation;
      labels["part"] = figure == DeviceFigure::kComputeUtilisation ? "compute" : "memory";
      break;
    case DeviceFigure::kTemperature:
      family = &families_->device_temperature;
      break;
    case DeviceFigure::kPower:
      family = &families_->device_power;
      break;
    case DeviceFigure::kEccCorrected:
    case DeviceFigure::kEccUncorrected:
      family = &families_->device_ecc_errors;
      labels["kind"] = figure == DeviceFigure::kEccCorrected ? "corrected" : "uncorrected";
      break;
  }
  // Two scrapes at a time must not remove what the other sets.
  MutexLock lock(&mutex_);
  prometheus::Gauge& gauge = family->Add(labels);
  if (value.has_value()) {
    gauge.Set(*value);
  } else {
    family->Remove(&gauge);
  }
}

std::string Metrics::Serialize() const {
  return prometheus::TextSerializer().Serialize(registry_->Collect());
}

}  // namespace sconce
