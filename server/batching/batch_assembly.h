// From requests to a batch and back: copies each request's rows once, from the wire into the batch,
// and cuts the outputs into each request's rows without copying. Pure functions.

#ifndef SCONCE_SERVER_BATCHING_BATCH_ASSEMBLY_H_
#define SCONCE_SERVER_BATCHING_BATCH_ASSEMBLY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/batching/request.h"
#include "server/device/replica.h"

namespace sconce {

// Equal for two requests exactly when all dimensions of their inputs but the first are.
std::string ShapeKey(const InferRequest& request);

// Whether `version` can take the request's inputs that lie in a device's memory, and give the
// outputs that it wants written there: sizes and names. INVALID_ARGUMENT otherwise. A size that
// depends on what the network computes is left to the replica.
absl::Status CheckDeviceBytes(const ModelVersion& version, const InferRequest& request);

// Whether `version` takes the inputs of a request that was checked against another one. The request
// is then checked against `version`.
absl::Status CheckAgainst(const ModelVersion& version, InferRequest* request);

// The bytes of the batch's inputs.
std::vector<int64_t> InputSizes(const ModelVersion& version,
                                absl::Span<const InferRequest> requests);

// What the replica is given to run: every request's rows, in order. `staged` is memory of
// InputSizes.
// REQUIRES: the requests are checked against `version`, have the same ShapeKey and `rows` rows
// together.
BatchInput AssembleBatch(const ModelVersion& version, absl::Span<const InferRequest> requests,
                         int64_t rows, std::vector<HostTensor> staged);

// Copies the i-th input of every request, in order, into `batch`; bytes that lie in a device's
// memory are noted in `from_device` instead.
// REQUIRES: batch.size() is the sum of the requests' sizes.
void AssembleInput(absl::Span<const InferRequest> requests, size_t input,
                   absl::Span<std::byte> batch, std::vector<BatchInput::FromDevice>* from_device);

// Rows [first, first + rows) of every output; shares the batch's memory.
std::vector<HostTensor> SliceRows(absl::Span<const HostTensor> outputs, int64_t first,
                                  int64_t rows);

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_BATCH_ASSEMBLY_H_
