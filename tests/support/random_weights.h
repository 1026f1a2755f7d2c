// Weights for a network that nobody has trained, such that what goes through it keeps about its
// size: rounding can then be told from nonsense. For tests and benchmarks.
#ifndef SCONCE_TESTS_SUPPORT_RANDOM_WEIGHTS_H_
#define SCONCE_TESTS_SUPPORT_RANDOM_WEIGHTS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "models/net.h"
#include "server/weights/state_dict.h"

namespace sconce {

// The same seed gives the same weights.
StateDict RandomWeights(const models::Net& net, uint64_t seed);

absl::Status WriteSafetensors(const StateDict& weights, const std::string& path);

}  // namespace sconce

#endif  // SCONCE_TESTS_SUPPORT_RANDOM_WEIGHTS_H_
