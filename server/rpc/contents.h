// Typed tensor contents: the elements of an InferTensorContents message to and from row-major
// bytes.
//
// Pure functions, callable from any thread. What comes from a client is hostile: memory is taken
// only for elements that are there.

#ifndef SCONCE_SERVER_RPC_CONTENTS_H_
#define SCONCE_SERVER_RPC_CONTENTS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/open_inference.pb.h"
#include "server/base/dtype.h"
#include "server/batching/request.h"
#include "server/device/replica.h"

namespace sconce {

// Whether the datatype may travel as typed contents; FP16 and BF16, for example, are always raw.
bool HasContentsField(DType dtype);

// The elements of a `contents` message as it came off the wire. INVALID_ARGUMENT where it has not
// exactly `count` elements in the field of `dtype`, anything in another field, or a value that
// `dtype` cannot hold; the message begins with `what`.
// REQUIRES: count * DTypeSize(dtype) does not overflow.
absl::StatusOr<std::vector<std::byte>> DecodeContents(const InputBytes& contents, DType dtype,
                                                      int64_t count, const std::string& what);

// REQUIRES: HasContentsField(tensor.dtype).
void EncodeContents(const HostTensor& tensor, inference::InferTensorContents* contents);

}  // namespace sconce

#endif  // SCONCE_SERVER_RPC_CONTENTS_H_
