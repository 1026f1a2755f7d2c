// MemoryLedger: what each model's versions have of each device's memory: their weights, for as long
// as they are there, and what batches of the last version were seen to take. Free of torch.
//
// Thread-safe. Shared by the loader and its versions, the last of which may outlive it.

#ifndef SCONCE_SERVER_LOADER_MEMORY_LEDGER_H_
#define SCONCE_SERVER_LOADER_MEMORY_LEDGER_H_

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "server/base/mutex.h"
#include "server/registry/model_version.h"

namespace sconce {

// The weights of a version on one device.
struct WeightsOnDevice {
  std::string device;
  int64_t size_bytes = 0;
  int64_t shared_bytes = 0;  // what of that was there before
};

class MemoryLedger : public std::enable_shared_from_this<MemoryLedger> {
 public:
  // Counts a version's weights until it is destroyed.
  class Weights {
   public:
    ~Weights();
    Weights(const Weights&) = delete;
    Weights& operator=(const Weights&) = delete;

   private:
    friend class MemoryLedger;
    struct Entry {
      std::string model;
      std::vector<WeightsOnDevice> on;
    };
    Weights(std::shared_ptr<MemoryLedger> memory, std::list<Entry>::iterator entry)
        : memory_(std::move(memory)), entry_(entry) {}

    const std::shared_ptr<MemoryLedger> memory_;
    const std::list<Entry>::iterator entry_;
  };
  // REQUIRES: this is in a shared_ptr.
  std::unique_ptr<Weights> Add(const std::string& model, std::vector<WeightsOnDevice> on);

  // What the weights of the model's versions take there together, tensors that they share once.
  int64_t WeightsBytes(const std::string& model, const std::string& device) const;
  // Whether any model has weights there.
  bool HasWeights(const std::string& device) const;

  // By device: what a replica took beside the weights when the model was last loaded.
  std::map<std::string, int64_t> ReplicaBytes(const std::string& model) const;
  void RememberReplicas(const ModelVersion& version);

 private:
  mutable Mutex mutex_;
  // In the order in which they were loaded.
  std::list<Weights::Entry> weights_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::map<std::string, int64_t>> replica_bytes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_MEMORY_LEDGER_H_
