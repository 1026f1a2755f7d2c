// What an operator may say about a model in its config.pbtxt, as checked values with defaults.
// proto/model_config.proto is the text form; parsed by server/reload/config_file.h. A value type.

#ifndef SCONCE_SERVER_REGISTRY_MODEL_CONFIG_H_
#define SCONCE_SERVER_REGISTRY_MODEL_CONFIG_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "models/sequential/layers.h"
#include "server/device/execution_options.h"
#include "server/device/instance_group.h"
#include "server/registry/signature.h"

namespace sconce {

// Where the weights of a new version go.
enum class SwapMode {
  kBeside,           // beside those of the version that answers, which is let go afterwards
  kInPlaceIfNeeded,  // over them, where memory does not allow both
  kInPlace,          // over them
};

// How near two outputs must be: |a - b| <= absolute + relative * |b| for each element, where b is
// what was expected.
struct Tolerance {
  double absolute = 1e-4;
  double relative = 1e-3;

  bool operator==(const Tolerance&) const = default;
};

// What a new version has to show beside that it runs.
struct ProofConfig {
  // Whether weights may hold NaN and infinities.
  bool allow_non_finite = false;
  // Of the samples in the model's folder `golden`.
  Tolerance golden;
  // The last requests that the version before answered, which the new one has to answer alike; 0:
  // none are kept.
  int32_t agreement_requests = 0;
  Tolerance agreement;

  bool operator==(const ProofConfig&) const = default;
};

// A new version answers a share of the batches for some time before it answers all of them.
struct CanaryConfig {
  double share = 0;  // of the batches, in [0, 1); 0: no canary
  std::chrono::milliseconds duration{60'000};
  // It is withdrawn where it has failed a larger share of its requests than this and than the
  // version that serves, ...
  double max_error_share = 0;
  // ... where its batches take longer than this times as long, by rows, ...
  double max_latency_ratio = 2;
  // ... or where an output is not finite while the version that serves gives none such.

  bool operator==(const CanaryConfig&) const = default;
};

// The highest number that a folder may have: JSON holds it exactly.
constexpr int64_t kMaxVersionNumber = int64_t{1} << 53;

// Which of the numbered folders of a model are served.
struct VersionPolicy {
  enum class Kind { kLatest, kAll, kSpecific };
  Kind kind = Kind::kLatest;
  int32_t latest = 1;             // the highest numbers
  std::vector<int64_t> specific;  // sorted, each once

  bool operator==(const VersionPolicy&) const = default;
};

struct ModelConfig {
  // Empty: the one weights file in the model's folder.
  std::string weights_file;
  // Empty: the one in the model's folder that has the name of a program, if there is one.
  std::string program_file;
  // Empty: detected from the names and shapes of the weights.
  std::string architecture;
  std::map<std::string, std::string> architecture_parameters;
  // The layers of the architecture "sequential", in order (CheckSequential).
  std::optional<models::SequentialSpec> sequential;
  // Empty: as the architecture says. Otherwise they name and bound its inputs and outputs.
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  bool strict = true;

  // 0: tensors have no batch dimension, and each request is run alone.
  int64_t max_batch_size = 64;
  int64_t max_queue_size = 1024;  // requests that may wait
  // 0: requests without a deadline wait as long as it takes.
  std::chrono::microseconds default_timeout{0};
  // Empty: one group with its defaults.
  std::vector<InstanceGroup> instances;

  ExecutionOptions execution;
  // What the model may take of one device's memory; 0: what is there.
  int64_t device_memory_cap_bytes = 0;

  SwapMode swap = SwapMode::kBeside;
  ProofConfig proof;
  // A proven version answers at once, or waits to be promoted.
  bool manual_promotion = false;
  CanaryConfig canary;
  // Versions before the one that answers which are kept for a rollback. They are let go, the oldest
  // first, where a load needs their memory.
  int32_t retained_versions = 1;
  VersionPolicy version_policy;
  // What the file says that makes no difference here, for the log: a word and why.
  std::vector<std::string> without_effect;

  bool operator==(const ModelConfig&) const = default;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_MODEL_CONFIG_H_
