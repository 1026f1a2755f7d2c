// PassingTensor: what is found out about a tensor while its bytes pass, in order: its part of the
// weights id, what the pool knows it by, and whether it is finite. Bytes are looked at while they
// are in the processor's cache.
//
// Used by one thread at a time; owned by a load.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_PASSING_TENSOR_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_PASSING_TENSOR_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/base/dtype.h"
#include "server/base/keyed_digest.h"
#include "server/checkpoint/checkpoint.h"
#include "server/device/upload/tensor_pool.h"
#include "server/weights/weights_digest.h"

namespace sconce {

class PassingTensor {
 public:
  // `key`: null where no device wants the tensor, so that the id alone counts. `finite_as`: the
  // types in which it has to be finite; none: it need not be. All outlive it.
  PassingTensor(const TensorDescriptor* tensor, const DigestKey* key, std::vector<DType> finite_as);

  void Update(absl::Span<const std::byte> bytes);

  // Of the chunks that have passed in full.
  const ChunkDigests& chunks() const { return chunks_; }
  // INVALID_ARGUMENT once an element has passed that is not finite.
  absl::Status Finite() const;
  // REQUIRES: all bytes have passed.
  Digest128 IdDigest() const { return id_.Finish(); }

 private:
  struct Found {
    int64_t element;
    DType as;
    std::array<std::byte, 16> bytes;
  };

  void UpdateChunk(absl::Span<const std::byte> bytes);
  // `bytes` go on where those before ended, which may be within an element.
  void LookForNonFinite(absl::Span<const std::byte> bytes);
  void LookAtWhole(absl::Span<const std::byte> elements);

  const TensorDescriptor& tensor_;
  const int64_t size_bytes_;
  const size_t element_bytes_;
  const std::vector<DType> finite_as_;
  TensorDigest id_;
  std::optional<KeyedHasher> keyed_;
  ChunkDigests chunks_;
  int64_t elements_ = 0;  // that were looked at
  std::array<std::byte, 16> cut_;
  size_t cut_bytes_ = 0;  // of an element whose rest is still to come
  std::optional<Found> found_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_PASSING_TENSOR_H_
