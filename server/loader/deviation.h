// How far a network that was prepared (folded, cast, laid out anew) is from the one that was not,
// by what both answer to the same probes. Free of torch; functions, callable from any thread.

#ifndef SCONCE_SERVER_LOADER_DEVIATION_H_
#define SCONCE_SERVER_LOADER_DEVIATION_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/device/replica.h"
#include "server/loader/answers.h"
#include "server/registry/recent_requests.h"
#include "server/registry/signature.h"

namespace sconce {

// Inputs of the fewest rows that the network takes: the first of the golden samples, and numbers
// by chance, which are the same at every call. `native` is the network's own signature.
std::vector<Sample> MakeProbes(const Signature& signature, const Signature& native,
                               absl::Span<const Sample> golden);

// What a replica answers to each probe. Errors are the replica's. REQUIRES: nobody else runs it.
using Answers = std::vector<std::vector<KeptTensor>>;
absl::StatusOr<Answers> AnswerProbes(Replica& replica, absl::Span<const Sample> probes);

struct Deviation {
  double absolute = 0;  // infinite where one of the two is not finite and the other is
  double relative = 0;  // to the largest magnitude of the output it is in
};

// The largest of all floating-point outputs. REQUIRES: both answer the same probes.
Deviation LargestDeviation(const Answers& expected, const Answers& got);

// "2.1e-06, which is 3.4e-07 of the largest output".
std::string Text(const Deviation& deviation);

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_DEVIATION_H_
