// LoaderParts: what all loads of one loader have in common. Owned by TorchVersionLoader; what a
// version needs for longer than that is shared with it.

#ifndef SCONCE_SERVER_LOADER_LOADER_PARTS_H_
#define SCONCE_SERVER_LOADER_LOADER_PARTS_H_

#include <c10/core/Device.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "models/architecture.h"
#include "server/base/host_memory_budget.h"
#include "server/base/task_threads.h"
#include "server/checkpoint/checkpoint.h"
#include "server/device/device_health.h"
#include "server/device/upload/load_lanes.h"
#include "server/device/upload/pooled_weights.h"
#include "server/device/upload/tensor_pool.h"
#include "server/loader/memory_ledger.h"
#include "server/loader/seen_networks.h"
#include "server/registry/model_config.h"

namespace sconce {

struct LoaderParts {
  // Those the server was given, and behind them the CPU if it is not one of them.
  std::vector<c10::Device> devices;
  size_t chosen = 0;  // how many the server was given
  CheckpointOptions checkpoint_options;
  DeviceHealth* health = nullptr;
  bool direct_storage = false;
  // Whether code that a model's folder brings may be run.
  bool allow_native_code = false;
  absl::Span<const models::Architecture* const> catalog;
  HostMemoryBudget host_memory;

  std::shared_ptr<LoadLanes> lanes = std::make_shared<LoadLanes>();
  std::shared_ptr<TensorPool> pool = std::make_shared<TensorPool>();
  std::shared_ptr<MemoryLedger> ledger = std::make_shared<MemoryLedger>();
  SeenNetworks seen;
  // What is done while requests wait for it, which loading threads are too slow for where other
  // models are busy.
  TaskThreads while_held{"sconce-swap", 2, ThreadPriority::kNormal};
};

inline WeightsOptions OptionsOf(const LoaderParts& parts, const ModelConfig& config) {
  return {parts.pool.get(), parts.health, config.proof.allow_non_finite};
}

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_LOADER_PARTS_H_
