#include "server/loader/memory_ledger.h"

#include <algorithm>
#include <utility>

namespace sconce {

MemoryLedger::Weights::~Weights() {
  MutexLock lock(&memory_->mutex_);
  memory_->weights_.erase(entry_);
}

std::unique_ptr<MemoryLedger::Weights> MemoryLedger::Add(const std::string& model,
                                                         std::vector<WeightsOnDevice> on) {
  MutexLock lock(&mutex_);
  const auto entry = weights_.insert(weights_.end(), {model, std::move(on)});
  return std::unique_ptr<Weights>(new Weights(shared_from_this(), entry));
}

int64_t MemoryLedger::WeightsBytes(const std::string& model, const std::string& device) const {
  MutexLock lock(&mutex_);
  int64_t bytes = 0;
  for (const Weights::Entry& entry : weights_) {
    if (entry.model != model) continue;
    for (const WeightsOnDevice& on : entry.on) {
      if (on.device != device) continue;
      // The oldest keeps what it shared with those that are gone, and with other models.
      bytes += bytes == 0 ? on.size_bytes : on.size_bytes - on.shared_bytes;
    }
  }
  return bytes;
}

bool MemoryLedger::HasWeights(const std::string& device) const {
  MutexLock lock(&mutex_);
  return std::any_of(weights_.begin(), weights_.end(), [&](const Weights::Entry& entry) {
    return std::any_of(entry.on.begin(), entry.on.end(),
                       [&](const WeightsOnDevice& on) { return on.device == device; });
  });
}

std::map<std::string, int64_t> MemoryLedger::ReplicaBytes(const std::string& model) const {
  MutexLock lock(&mutex_);
  const auto known = replica_bytes_.find(model);
  return known == replica_bytes_.end() ? std::map<std::string, int64_t>{} : known->second;
}

void MemoryLedger::RememberReplicas(const ModelVersion& version) {
  std::map<std::string, int64_t> replica_bytes;
  for (const DeviceFootprint& footprint : version.footprints) {
    int64_t replicas = 0;
    bool limited = false;
    for (const auto& replica : version.replicas) {
      if (replica->device() != footprint.device) continue;
      ++replicas;
      limited = limited || replica->max_rows() < version.max_batch_rows();
    }
    // Where batches were made to fit what was there, they took all of it, and the next version's
    // can do with less, too.
    replica_bytes[footprint.device] =
        limited
            ? 0
            : (footprint.workspace_bytes + footprint.graphs_bytes) / std::max<int64_t>(replicas, 1);
  }
  MutexLock lock(&mutex_);
  replica_bytes_[version.model] = std::move(replica_bytes);
}

}  // namespace sconce
