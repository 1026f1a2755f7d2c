// TensorPool: which weights lie in which device's memory, known by their content, so that a tensor
// that is there already is not brought there again: versions that differ in a few tensors, and
// models with one backbone, share the rest.
//
// Nobody can make a file whose tensor is taken for another one: content is known by digests that
// are keyed with a random key of the process (tensor_key.h), which nobody outside ever sees. What
// is derived from a tensor (another type, another layout) is known by the content that it was
// derived from, and how.
//
// Thread-safe. Owned by the loader; entries leave it when the last version that has them is
// destroyed, so that it owns no memory. Outlives every PooledTensor.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_TENSOR_POOL_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_TENSOR_POOL_H_

namespace sconce {

class TensorPool;

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_TENSOR_POOL_H_
