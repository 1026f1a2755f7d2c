// What torch.save writes of a single object, inside a part of a larger file: a chunk of a
// distributed checkpoint, or a weight in an exported program's archive.
#ifndef SCONCE_SERVER_CHECKPOINT_PYTORCH_SAVED_TENSOR_H_
#define SCONCE_SERVER_CHECKPOINT_PYTORCH_SAVED_TENSOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/file.h"
#include "server/checkpoint/checkpoint.h"

namespace sconce {

// The part of a file.
struct SavedPlace {
  const File& file;
  int64_t offset = 0;
  int64_t size_bytes = 0;
};

// A tensor with the storages it is a view of, numbered from 0; storages[i].file is 0.
struct SavedTensor {
  TensorDescriptor tensor;
  std::vector<StorageDescriptor> storages;
  std::vector<uint32_t> storage_crcs;  // empty unless they are to be verified
};

absl::StatusOr<SavedTensor> ReadSavedTensor(const SavedPlace& place,
                                            const CheckpointOptions& options);

// The object in one line, fit to print; its class where it has parts.
absl::StatusOr<std::string> DescribeSavedValue(const SavedPlace& place,
                                               const CheckpointOptions& options);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_PYTORCH_SAVED_TENSOR_H_
