// What is kept of answers beside giving them: whether they are finite, for a canary, and copies of
// requests with their answers, for new versions to be compared with. Pure functions.

#ifndef SCONCE_SERVER_BATCHING_OBSERVATION_H_
#define SCONCE_SERVER_BATCHING_OBSERVATION_H_

#include <optional>

#include "absl/types/span.h"
#include "server/batching/request.h"
#include "server/device/replica.h"
#include "server/registry/recent_requests.h"

namespace sconce {

// Whether an element of a floating-point tensor is NaN or infinite.
bool AnyNonFinite(absl::Span<const HostTensor> tensors);

// With memory of its own. None of a request whose inputs lie in a device's memory, or that is
// larger than RecentRequests keeps.
std::optional<RecentRequest> CopyForComparison(const InferRequest& request,
                                               const InferResponse& response);

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_OBSERVATION_H_
