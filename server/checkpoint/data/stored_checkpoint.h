// StoredCheckpoint: a checkpoint whose storages all lie, uncompressed, in open files. What is left
// of a container once its structure has been read and checked.
#ifndef SCONCE_SERVER_CHECKPOINT_DATA_STORED_CHECKPOINT_H_
#define SCONCE_SERVER_CHECKPOINT_DATA_STORED_CHECKPOINT_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/base/file.h"
#include "server/base/mutex.h"
#include "server/base/sha256.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/data/extent_reader.h"

namespace sconce {

class StoredCheckpoint final : public Checkpoint {
 public:
  // `format`: a literal. `files`: those that the listing's storages name, and any other that must
  // not change. `storage_crcs`: the checksum of each storage, to be verified when it is read; empty
  // where there is nothing to verify.
  StoredCheckpoint(const char* format, CheckpointListing listing, std::vector<File> files,
                   std::vector<uint32_t> storage_crcs);

  const char* format() const override { return format_; }
  absl::Status ReadRange(const TensorDescriptor& tensor, int64_t offset_bytes,
                         absl::Span<std::byte> destination) const override;
  absl::Status ReadTensors(absl::Span<const TensorRequest> requests,
                           const ReadOptions& options) const override;
  std::optional<FilePlace> PlaceOf(const TensorDescriptor& tensor) const override;
  absl::Status CheckUnchanged() const override;

 private:
  absl::Status UseManifests() override;

  absl::Status Read(const TensorDescriptor& tensor, int64_t offset_bytes,
                    absl::Span<std::byte> destination) const;
  absl::Status ReadStorage(const StorageDescriptor& storage, int64_t offset,
                           absl::Span<std::byte> out) const;
  // Reads a whole storage into `destination`, computing the checksum as it goes.
  absl::Status ReadVerified(size_t storage, absl::Span<std::byte> destination) const;
  // Reads a whole storage for its checksum alone, unless that was done before.
  absl::Status VerifyOnce(size_t storage) const;
  absl::Status CompareCrc(size_t storage, uint32_t crc) const;
  // Puts before `status` which file, member and tensor it is about.
  absl::Status About(const TensorDescriptor& tensor, const absl::Status& status) const;
  // True where the tensor's bytes lie in a file in one run, as they are to be handed out.
  bool IsPlain(const TensorDescriptor& tensor) const;
  // REQUIRES: IsPlain(tensor).
  FilePlace PlaceOfPlain(const TensorDescriptor& tensor) const;
  // Reads every file for its digest alone, unless that was done before.
  absl::Status VerifyFilesOnce() const;
  // Reads the extents of each file, and with them, where that is still to be done, every byte of
  // all files for their digests.
  absl::Status ReadFiles(std::vector<std::vector<FileExtent>> extents, int threads,
                         const ExtentSink& sink) const;

  const char* const format_;
  const std::vector<File> files_;
  const std::vector<uint32_t> storage_crcs_;
  mutable std::vector<std::atomic<bool>> verified_;  // as long as storage_crcs_
  std::vector<Sha256Digest> manifests_;              // of each file; empty where not asked for
  mutable Mutex verifying_;                          // held while VerifyFilesOnce reads
  mutable std::atomic<bool> files_verified_ = false;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_DATA_STORED_CHECKPOINT_H_
