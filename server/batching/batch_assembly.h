// From requests to a batch and back: copies each request's rows once, from the wire into the batch,
// and cuts the outputs into each request's rows, without copying unless they were padded. Pure
// functions.

#ifndef SCONCE_SERVER_BATCHING_BATCH_ASSEMBLY_H_
#define SCONCE_SERVER_BATCHING_BATCH_ASSEMBLY_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "server/batching/request.h"
#include "server/device/replica.h"

namespace sconce {

// How the requests of a batch lie in it.
struct BatchLayout {
  // Of the requests together, and with those that the network wants beyond.
  int64_t rows = 0;
  int64_t filled_rows = 0;
  // The largest sizes, of requests that share a batch although theirs differ; else none.
  std::vector<int64_t> open_sizes = {};
  // A request is smaller, or leaves out an input.
  bool ragged = false;
};

// REQUIRES, here and below: the requests are checked against `version`, have the same shape key and
// `rows` rows together.
BatchLayout LayOut(const ModelVersion& version, absl::Span<const InferRequest> requests,
                   int64_t rows);

// The bytes of the batch's inputs.
std::vector<int64_t> InputSizes(const ModelVersion& version,
                                absl::Span<const InferRequest> requests, const BatchLayout& layout);

// What the replica is given to run: every request's rows, in order. `staged` is memory of
// InputSizes.
BatchInput AssembleBatch(const ModelVersion& version, absl::Span<const InferRequest> requests,
                         const BatchLayout& layout, std::vector<HostTensor> staged);

// Copies the i-th input of every request, in order, into `batch`; bytes that lie in a device's
// memory are noted in `from_device` instead.
// REQUIRES: batch.size() is the sum of the requests' sizes.
void AssembleInput(absl::Span<const InferRequest> requests, size_t input,
                   absl::Span<std::byte> batch, std::vector<BatchInput::FromDevice>* from_device);

// What `request`, whose rows begin at `first`, is answered with out of the batch's outputs. Shares
// the batch's memory, unless something is to be cut off.
std::vector<HostTensor> AnswerOf(const Signature& signature, const BatchLayout& layout,
                                 absl::Span<const HostTensor> outputs, int64_t first,
                                 const InferRequest& request);

// Rows [first, first + rows) of every output; shares the batch's memory.
std::vector<HostTensor> SliceRows(absl::Span<const HostTensor> outputs, int64_t first,
                                  int64_t rows);

}  // namespace sconce

#endif  // SCONCE_SERVER_BATCHING_BATCH_ASSEMBLY_H_
