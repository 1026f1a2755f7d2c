// A checkpoint in several files that an index lists: each file is a checkpoint of its own, and what
// it holds must be what the index says.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "server/base/printable.h"
#include "server/checkpoint/containers.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/folder/merged_checkpoint.h"
#include "server/checkpoint/folder/shard_index.h"
#include "server/checkpoint/folder/sibling_files.h"
#include "server/checkpoint/pytorch/listing_builder.h"

namespace sconce {
namespace {

absl::StatusOr<std::string> ReadIndex(const File& file, int64_t max_bytes) {
  if (file.size_bytes() > max_bytes) {
    return Refused("expected an index of at most ", max_bytes, " bytes, got ", file.size_bytes());
  }
  std::string json(static_cast<size_t>(file.size_bytes()), '\0');
  absl::Status read =
      ReadFrom(file, 0, absl::MakeSpan(reinterpret_cast<std::byte*>(json.data()), json.size()));
  if (!read.ok()) return read;
  return json;
}

absl::Status CheckHolds(const Checkpoint& shard, const std::set<std::string>& named) {
  std::set<std::string_view> held;
  for (const TensorDescriptor& tensor : shard.tensors()) held.insert(tensor.name);
  for (const NonTensorEntry& entry : shard.non_tensors()) held.insert(entry.name);
  for (const std::string& name : named) {
    if (held.erase(name) == 0 && !IsExtraState(name)) {
      return Refused("expected tensor '", Printable(name),
                     "', which the index says is there, got a file without it");
    }
  }
  for (const std::string_view name : held) {
    return Refused("expected only what the index says is there, got '", Printable(name), "' too");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenSharded(File file,
                                                        const CheckpointOptions& options) {
  const absl::StatusOr<std::string> json = ReadIndex(file, options.max_metadata_bytes);
  if (!json.ok()) return json.status();
  absl::StatusOr<ShardIndex> index = ParseShardIndex(*json);
  if (!index.ok()) return index.status();
  const absl::StatusOr<SiblingFiles> siblings =
      SiblingFiles::Of(file.path(), SiblingFiles::Names::kInFolder);
  if (!siblings.ok()) return siblings.status();

  std::vector<std::unique_ptr<Checkpoint>> shards;
  for (const auto& [name, tensors] : index->shards) {
    const std::string where = absl::StrCat("shard '", Printable(name), "'");
    absl::StatusOr<File> opened = siblings->Open(name);
    if (!opened.ok()) return InContext(where, opened.status());
    absl::StatusOr<std::unique_ptr<Checkpoint>> shard = OpenSingleFile(*std::move(opened), options);
    if (!shard.ok()) return InContext(where, shard.status());
    if (absl::Status holds = CheckHolds(**shard, tensors); !holds.ok()) {
      return InContext(where, holds);
    }
    shards.push_back(*std::move(shard));
  }
  const std::string path = file.path();
  std::string format = absl::StrCat("sharded ", shards.front()->format());
  std::vector<File> others;
  others.push_back(std::move(file));
  return MergedCheckpoint::Make(std::move(format), path, std::move(others), std::move(shards),
                                std::move(index->metadata));
}

}  // namespace sconce
