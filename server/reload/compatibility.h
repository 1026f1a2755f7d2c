// Whether a new version may take over from the one that answers without anybody asking for it:
// clients that run must be able to go on as they are.

#ifndef SCONCE_SERVER_RELOAD_COMPATIBILITY_H_
#define SCONCE_SERVER_RELOAD_COMPATIBILITY_H_

#include "absl/status/status.h"
#include "server/registry/model_version.h"

namespace sconce {

// FAILED_PRECONDITION unless both are of one architecture family ("resnet50"), or programs, and
// take and give the same tensors; the new one may take more sizes, values and rows, and do without
// inputs. The message says what is served, what came and how an operator accepts it.
absl::Status CheckReplaces(const ModelVersion& live, const ModelVersion& next);

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_COMPATIBILITY_H_
