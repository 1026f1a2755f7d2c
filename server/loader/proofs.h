// Proofs: what a version that runs has to answer before it may be published: golden samples, and
// the last requests as the version before answered them. Once on each device, whose replicas share
// their weights.
//
// Called on the loading thread; nobody else runs the replicas.

#ifndef SCONCE_SERVER_LOADER_PROOFS_H_
#define SCONCE_SERVER_LOADER_PROOFS_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/device/replica.h"
#include "server/loader/weights_structure.h"
#include "server/reload/version_loader.h"

namespace sconce {

// INVALID_ARGUMENT where an answer is not as near as config.proof wants it, with the sample, the
// output and the element. A recent request that does not fit the signature or the batch size any
// more proves nothing and is left out. Errors of replicas. `between` is called between two samples.
absl::Status CheckAnswers(const LoadRequest& request, const WeightsStructure& structure,
                          absl::Span<const std::shared_ptr<Replica>> replicas,
                          const std::function<void()>& between);

}  // namespace sconce

#endif  // SCONCE_SERVER_LOADER_PROOFS_H_
