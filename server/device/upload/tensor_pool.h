// TensorPool: which weights lie in which device's memory, known by their content, so that a tensor
// that is there already is not brought there again: versions that differ in a few tensors, and
// models with one backbone, share the rest.
//
// Nobody can make a file whose tensor is taken for another one: content is known by digests that
// are keyed with a random key of the pool (server/base/keyed_digest.h), which nobody outside ever
// sees. What is derived from a tensor (another type, another layout) is known by the content that
// it was derived from, and how.
//
// Thread-safe. Owned by the loader. Tensors leave it when their last owner is gone, so that it owns
// no memory; they may outlive it.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_TENSOR_POOL_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_TENSOR_POOL_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/MemoryFormat.h>
#include <c10/core/ScalarType.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "server/base/content_hash.h"
#include "server/base/dtype.h"
#include "server/base/keyed_digest.h"

namespace sconce {

// What a tensor in a device's memory was made of, and how.
struct TensorForm {
  c10::Device device;
  // As in the file.
  DType dtype;
  std::vector<int64_t> shape;
  // As it lies in memory.
  at::ScalarType type;
  at::MemoryFormat format;

  friend bool operator==(const TensorForm&, const TensorForm&) = default;
};

// A tensor's bytes as Checkpoint::ReadInto gives them: the keyed digest of each chunk of
// kDigestChunkBytes, the last of which may be shorter. One at least.
using ChunkDigests = std::vector<Digest128>;
inline constexpr int64_t kDigestChunkBytes = int64_t{512} << 10;

// Memory that holds one tensor of a version, or of several.
class PooledTensor {
 public:
  // `memory`: flat, as long as the tensor.
  PooledTensor(TensorForm form, at::Tensor memory);
  ~PooledTensor();
  PooledTensor(const PooledTensor&) = delete;
  PooledTensor& operator=(const PooledTensor&) = delete;

  const TensorForm& form() const { return form_; }
  const at::Tensor& memory() const { return memory_; }

 private:
  friend class TensorPool;
  class Entry;

  const TensorForm form_;
  const at::Tensor memory_;
  std::unique_ptr<Entry> entry_;  // where it is in a pool; null: nowhere
};

class TensorPool {
 public:
  TensorPool();
  ~TensorPool();
  TensorPool(const TensorPool&) = delete;
  TensorPool& operator=(const TensorPool&) = delete;

  const DigestKey& key() const { return key_; }

  // Whether there are tensors of that form.
  bool HasAny(const TensorForm& form) const;

  // A tensor that begins with that chunk, whose content stays what it is for as long as it is held.
  struct Candidate {
    std::shared_ptr<PooledTensor> tensor;
    std::shared_ptr<const ChunkDigests> content;
  };
  std::vector<Candidate> Find(const TensorForm& form, const Digest128& first_chunk) const;

  // From here on others may find the tensor, as what `content` says. REQUIRES: its memory holds
  // that, all that was queued has been done, and it is in no pool.
  void Add(const std::shared_ptr<PooledTensor>& tensor, ChunkDigests content);

  // The content that the tensor is known by; null where it is in no pool.
  std::shared_ptr<const ChunkDigests> ContentOf(const PooledTensor& tensor) const;

  // Takes the tensor out, so that it may be written over, if `tensor` is its only owner; false
  // where others have it, too.
  bool Withdraw(const std::shared_ptr<PooledTensor>& tensor);

 private:
  friend class PooledTensor;
  struct Index;

  const DigestKey key_;
  const std::shared_ptr<Index> index_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_TENSOR_POOL_H_
