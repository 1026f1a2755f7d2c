// What a network answered, compared with what it should have: of golden samples and of requests
// that the version before answered. Pure functions, free of torch.

#ifndef SCONCE_SERVER_LOADER_ANSWERS_H_
#define SCONCE_SERVER_LOADER_ANSWERS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/device/replica.h"
#include "server/registry/model_config.h"
#include "server/registry/recent_requests.h"
#include "server/registry/signature.h"

namespace sconce {

// A batch and what it is to be answered with, in the signature's order.
struct Sample {
  std::string name;  // for messages: "golden sample 'cat.safetensors'"
  std::vector<KeptTensor> inputs;
  std::vector<KeptTensor> outputs;
};

// INVALID_ARGUMENT where `outputs`, which are those of the rows from `first_row` on, are not as
// near to the sample's as `tolerance` allows: with the first output and element that is not, what
// was expected, what came and how far it might have been. A NaN agrees with a NaN alone, and an
// infinity with itself.
// REQUIRES: `outputs` are what the signature says (CheckOutputs).
absl::Status CompareAnswers(const Sample& sample, const Signature& signature, int64_t first_row,
                            absl::Span<const HostTensor> outputs, const Tolerance& tolerance);

// Runs the sample through the replica, in as few batches as it takes, and compares. Errors are
// those of the replica and of CompareAnswers; INVALID_ARGUMENT where the network fails on it.
// REQUIRES: the sample fits the signature; nobody else runs the replica.
absl::Status AskSample(Replica& replica, const Signature& signature, const Sample& sample,
                       const Tolerance& tolerance);

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_ANSWERS_H_
