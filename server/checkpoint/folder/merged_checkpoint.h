// MergedCheckpoint: several checkpoints seen as one, such as the shards of a large model. It owns
// them, and lists their tensors one after the other, with files and storages numbered anew.
#ifndef SCONCE_SERVER_CHECKPOINT_FOLDER_MERGED_CHECKPOINT_H_
#define SCONCE_SERVER_CHECKPOINT_FOLDER_MERGED_CHECKPOINT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/file.h"
#include "server/checkpoint/checkpoint.h"

namespace sconce {

class MergedCheckpoint final : public Checkpoint {
 public:
  // `path`: what the whole was opened from. `others`: files without tensors that must not change.
  // `metadata`: comes before that of the parts. Fails where a name occurs twice or the parts do not
  // fit together. REQUIRES: !parts.empty().
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Make(
      std::string format, const std::string& path, std::vector<File> others,
      std::vector<std::unique_ptr<Checkpoint>> parts, std::vector<MetadataEntry> metadata);

  const char* format() const override { return format_.c_str(); }
  absl::Status ReadRange(const TensorDescriptor& tensor, int64_t offset_bytes,
                         absl::Span<std::byte> destination) const override;
  // One part after the other.
  absl::Status ReadTensors(absl::Span<const TensorRequest> requests,
                           const ReadOptions& options) const override;
  std::optional<FilePlace> PlaceOf(const TensorDescriptor& tensor) const override;
  absl::Status CheckUnchanged() const override;

 protected:
  absl::Status UseManifests() override;

 private:
  // The part that the tensor's bytes lie in.
  size_t PartOf(const TensorDescriptor& tensor) const;

  MergedCheckpoint(std::string format, CheckpointListing listing, std::vector<File> others,
                   std::vector<std::unique_ptr<Checkpoint>> parts,
                   std::vector<int32_t> first_storages);

  const std::string format_;
  const std::vector<File> others_;
  const std::vector<std::unique_ptr<Checkpoint>> parts_;
  const std::vector<int32_t> first_storages_;  // of each part, among storages()
};

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_FOLDER_MERGED_CHECKPOINT_H_
