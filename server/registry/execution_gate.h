// ExecutionGate: holds a model's executors between two batches, while what they run on is changed.
// Requests queue meanwhile. Implemented by the batching; used by loads that write new weights over
// those that answer. Thread-safe.

#ifndef SCONCE_SERVER_REGISTRY_EXECUTION_GATE_H_
#define SCONCE_SERVER_REGISTRY_EXECUTION_GATE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/base/clock.h"

namespace sconce {

// While it exists no batch of the model is under way and none begins.
class BatchHold {
 public:
  virtual ~BatchHold() = default;
};

class ExecutionGate {
 public:
  virtual ~ExecutionGate() = default;

  // Returns once what is under way has ended; batches that wait are not begun meanwhile.
  // DEADLINE_EXCEEDED where that takes longer than `patience`, and everything goes on as before;
  // NOT_FOUND without such a model; FAILED_PRECONDITION while somebody holds it.
  virtual absl::StatusOr<std::unique_ptr<BatchHold>> HoldBatches(const std::string& model,
                                                                 Duration patience) = 0;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_EXECUTION_GATE_H_
