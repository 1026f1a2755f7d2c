// The weights id: a hash of what a checkpoint's tensors hold, computed on the bytes as they pass,
// in whatever order the tensors are read.
#ifndef SCONCE_SERVER_WEIGHTS_WEIGHTS_DIGEST_H_
#define SCONCE_SERVER_WEIGHTS_WEIGHTS_DIGEST_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/content_hash.h"
#include "server/checkpoint/checkpoint.h"

namespace sconce {

// The digest of one tensor: dtype, shape and bytes as Checkpoint::ReadInto writes them, in order,
// which may come in pieces. Used by one thread at a time.
class TensorDigest {
 public:
  explicit TensorDigest(const TensorDescriptor& tensor);

  void Update(absl::Span<const std::byte> bytes);
  int64_t size_bytes() const { return size_bytes_; }
  Digest128 Finish() const { return hasher_.Finish(); }

 private:
  ContentHasher hasher_;
  int64_t size_bytes_ = 0;
};

// Of a sparse tensor: of what it is described by, read piece by piece, since it takes no memory of
// its own.
absl::StatusOr<Digest128> SparseDigest(const Checkpoint& checkpoint,
                                       const TensorDescriptor& tensor);

// `named`: each tensor's name, without what every name begins with, and digest, in any order.
std::string WeightsId(std::vector<std::pair<std::string, Digest128>> named);

}  // namespace sconce

#endif  // SCONCE_SERVER_WEIGHTS_WEIGHTS_DIGEST_H_
