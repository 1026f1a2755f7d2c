// VersionMemory: the weights of one version, device by device, for as long as the version is there.
// What it leaves goes back to the devices when it is destroyed.
//
// Made by a load, shared with its version; used by one thread at a time.

#ifndef SCONCE_SERVER_LOADER_VERSION_MEMORY_H_
#define SCONCE_SERVER_LOADER_VERSION_MEMORY_H_

#include <c10/core/Device.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/device/upload/load_lanes.h"
#include "server/device/upload/pooled_weights.h"
#include "server/device/upload/tensor_pool.h"
#include "server/loader/loader_parts.h"
#include "server/loader/memory_ledger.h"
#include "server/loader/version_signature.h"
#include "server/registry/model_version.h"

namespace sconce {

class VersionMemory final : public VersionResources {
 public:
  using Resident = std::vector<std::shared_ptr<const ResidentWeights>>;

  // Gives the devices' caches back in the end if `on_accelerators`. `constant_bytes`: what the
  // network holds beside the weights on each of these.
  VersionMemory(const LoaderParts& parts, VersionSignature signature, int64_t constant_bytes,
                bool on_accelerators)
      : signature_(std::move(signature)),
        constant_bytes_(constant_bytes),
        on_accelerators_(on_accelerators),
        lanes_(parts.lanes),
        pool_(parts.pool),
        ledger_(parts.ledger) {}

  ~VersionMemory() override {
    counted_.reset();
    resident_.clear();
    if (on_accelerators_) lanes_->ReturnCaches();
  }

  const VersionSignature& signature() const { return signature_; }
  // One for each device.
  const Resident& resident() const { return resident_; }

  // With what the network holds beside them, and what was made of them.
  int64_t BytesOf(const ResidentWeights& weights) const {
    const auto made = made_bytes_.find(weights.device().str());
    return weights.size_bytes() + (weights.device().is_cpu() ? 0 : constant_bytes_) +
           (made == made_bytes_.end() ? 0 : made->second);
  }

  // The version has tensors there that were made of its weights.
  void AddMade(c10::Device device, int64_t bytes) {
    made_bytes_[device.str()] += bytes;
    Count();
  }

  // `owned`: whether they take memory of their own, and not that of the version that they were
  // written over.
  void Take(std::string model, Resident resident, bool owned) {
    model_ = std::move(model);
    resident_ = std::move(resident);
    owned_ = owned;
    Count();
  }

  // Of a device that is not to be used after all. Its net must be gone.
  void LeaveOut(c10::Device device) {
    std::erase_if(resident_, [&](const auto& weights) { return weights->device() == device; });
    Count();
  }

 private:
  void Count() {
    std::vector<WeightsOnDevice> on;
    for (const auto& weights : resident_) {
      on.push_back({weights->device().str(), BytesOf(*weights),
                    owned_ ? weights->shared_bytes() : BytesOf(*weights)});
    }
    counted_ = ledger_->Add(model_, std::move(on));
  }

  const VersionSignature signature_;
  const int64_t constant_bytes_;
  const bool on_accelerators_;
  const std::shared_ptr<LoadLanes> lanes_;
  const std::shared_ptr<TensorPool> pool_;
  const std::shared_ptr<MemoryLedger> ledger_;
  std::string model_;
  bool owned_ = true;
  Resident resident_;
  std::map<std::string, int64_t> made_bytes_;  // by device
  std::unique_ptr<MemoryLedger::Weights> counted_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_VERSION_MEMORY_H_
