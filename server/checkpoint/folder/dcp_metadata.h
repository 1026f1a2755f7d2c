// The .metadata file of a folder that torch.distributed.checkpoint wrote: a pickle of
//
//   Metadata{state_dict_metadata: {fqn: TensorStorageMetadata{properties, size, chunks}
//                                       | BytesStorageMetadata{}},
//            storage_data: {MetadataIndex{fqn, offset}: _StorageInfo{relative_path, offset,
//            length}}, planner_data: {fqn: path in the nested state_dict} or None, version, ...}
//
// read without running anything in it. Work and memory are linear in the stream, however often it
// refers to one object.
#ifndef SCONCE_SERVER_CHECKPOINT_FOLDER_DCP_METADATA_H_
#define SCONCE_SERVER_CHECKPOINT_FOLDER_DCP_METADATA_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/dtype.h"

namespace sconce {

// Where one saved object lies: a file of its own format inside a larger file.
struct DcpPlace {
  size_t file = 0;  // index into DcpMetadata::files
  int64_t offset = 0;
  int64_t size_bytes = 0;
};

struct DcpChunk {
  std::vector<int64_t> position;
  std::vector<int64_t> shape;
  DcpPlace place;
};

struct DcpTensor {
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;
  std::vector<DcpChunk> chunks;
};

struct DcpEntry {
  std::string fqn;
  // The keys that lead to it in what was saved; {fqn} where the file does not tell.
  std::vector<std::string> path;
  std::optional<DcpTensor> tensor;
  std::optional<DcpPlace> value;  // of what is no tensor, if it was saved at all
};

struct DcpMetadata {
  std::vector<DcpEntry> entries;   // in the order of the state_dict
  std::vector<std::string> files;  // names as written: untrusted
  std::string version;
};

// `stream`: the file's bytes.
absl::StatusOr<DcpMetadata> ParseDcpMetadata(std::string stream);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_FOLDER_DCP_METADATA_H_
