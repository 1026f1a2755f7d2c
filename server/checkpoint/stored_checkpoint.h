// StoredCheckpoint: a checkpoint whose storages all lie, uncompressed, in open files. What is left
// of a container once its structure has been read and checked.
#ifndef SCONCE_SERVER_CHECKPOINT_STORED_CHECKPOINT_H_
#define SCONCE_SERVER_CHECKPOINT_STORED_CHECKPOINT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/base/file.h"
#include "server/checkpoint/checkpoint.h"

namespace sconce {

class StoredCheckpoint final : public Checkpoint {
 public:
  // `format`: a literal. `files`: those that the listing's storages name, and any other that must not
  // change. `storage_crcs`: the checksum of each storage, to be verified when it is read; empty
  // where there is nothing to verify.
  StoredCheckpoint(const char* format, CheckpointListing listing, std::vector<File> files,
                   std::vector<uint32_t> storage_crcs);

  const char* format() const override { return format_; }
  absl::Status ReadRange(const TensorDescriptor& tensor, int64_t offset_bytes,
                         absl::Span<std::byte> destination) const override;
  absl::Status CheckUnchanged() const override;

 private:
  absl::Status Read(const TensorDescriptor& tensor, int64_t offset_bytes,
                    absl::Span<std::byte> destination) const;
  absl::Status ReadStorage(const StorageDescriptor& storage, int64_t offset,
                           absl::Span<std::byte> out) const;
  // Reads a whole storage into `destination`, computing the checksum as it goes.
  absl::Status ReadVerified(size_t storage, absl::Span<std::byte> destination) const;
  // Reads a whole storage for its checksum alone, unless that was done before.
  absl::Status VerifyOnce(size_t storage) const;
  absl::Status CompareCrc(size_t storage, uint32_t crc) const;

  const char* const format_;
  const std::vector<File> files_;
  const std::vector<uint32_t> storage_crcs_;
  mutable std::vector<std::atomic<bool>> verified_;  // as long as storage_crcs_
};

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_STORED_CHECKPOINT_H_
