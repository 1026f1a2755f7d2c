// The index of a checkpoint in several files, as Hugging Face's libraries write it:
//
//   { "metadata": {"total_size": bytes, ...}, "weight_map": {tensor: file, ...} }
//
// Pure functions. What the file names are worth is for SiblingFiles to say.
#ifndef SCONCE_SERVER_CHECKPOINT_FOLDER_SHARD_INDEX_H_
#define SCONCE_SERVER_CHECKPOINT_FOLDER_SHARD_INDEX_H_

#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/checkpoint/checkpoint.h"

namespace sconce {

// The largest models have some 200.
inline constexpr size_t kMaxShards = 4096;

struct ShardIndex {
  // File name -> the tensors that it holds.
  std::map<std::string, std::set<std::string>> shards;
  std::vector<MetadataEntry> metadata;  // numbers, strings and bools of "metadata"
};

absl::StatusOr<ShardIndex> ParseShardIndex(const std::string& json);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_FOLDER_SHARD_INDEX_H_
