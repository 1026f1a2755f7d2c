// What a request is checked for beyond its declared shapes, and with which others it may share a
// batch. Pure functions.

#ifndef SCONCE_SERVER_BATCHING_REQUEST_CHECK_H_
#define SCONCE_SERVER_BATCHING_REQUEST_CHECK_H_

#include "absl/status/status.h"
#include "server/batching/request.h"
#include "server/registry/model_version.h"

namespace sconce {

// Whether the elements of the inputs, which `request.bytes` holds, are values that they may have.
// INVALID_ARGUMENT otherwise, and where they cannot be looked at because they lie in a device's
// memory. Looks at every element of such inputs: called before a request waits.
absl::Status CheckElements(const ModelVersion& version, const InferRequest& request);

// Sets the request's shape_key and open_sizes. The keys of two requests are equal exactly when all
// dimensions of their inputs but the first are, or differ only in sizes in which the smaller one
// can be filled up. What lies in a device's memory, or is to be written there, is not filled up or
// cut: such requests share a batch with their equals alone.
void SetShape(const Signature& signature, InferRequest* request);

// Whether `version` can take the request's inputs that lie in a device's memory, and give the
// outputs that it wants written there: sizes and names. INVALID_ARGUMENT otherwise. A size that
// depends on what the network computes is left to the replica.
absl::Status CheckDeviceBytes(const ModelVersion& version, const InferRequest& request);

// Whether `version` takes the inputs of a request that was checked against another one. The request
// is then checked against `version`.
absl::Status CheckAgainst(const ModelVersion& version, InferRequest* request);

// The position of that output; signature.outputs.size() where there is none.
size_t OutputOf(const Signature& signature, const std::string& name);

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_REQUEST_CHECK_H_
