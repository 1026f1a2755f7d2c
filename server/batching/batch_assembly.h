// From requests to a batch and back: copies each request's rows once, from the wire into the batch,
// and cuts the outputs into each request's rows without copying. Pure functions.

#ifndef SCONCE_SERVER_BATCHING_BATCH_ASSEMBLY_H_
#define SCONCE_SERVER_BATCHING_BATCH_ASSEMBLY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "server/batching/request.h"
#include "server/device/replica.h"

namespace sconce {

// Equal for two requests exactly when all dimensions of their inputs but the first are.
std::string ShapeKey(const InferRequest& request);

// The shape of the batch's i-th input: `rows` times that of the requests in it.
std::vector<int64_t> BatchShape(const InferRequest& any, size_t input, int64_t rows);

// Copies the i-th input of every request, in order, into `batch`.
// REQUIRES: batch.size() is the sum of the requests' sizes.
void AssembleInput(absl::Span<const InferRequest> requests, size_t input,
                   absl::Span<std::byte> batch);

// Rows [first, first + rows) of every output; shares the batch's memory.
std::vector<HostTensor> SliceRows(absl::Span<const HostTensor> outputs, int64_t first,
                                  int64_t rows);

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_BATCH_ASSEMBLY_H_
