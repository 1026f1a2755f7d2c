// The seam behind OpenCheckpoint: one function for each container that can be read. A container is
// added by writing its function and a line in open_checkpoint.cc.
//
// Each takes the open file, checks its structure and describes its tensors. Errors leave out the
// path, which OpenCheckpoint adds.
#ifndef SCONCE_SERVER_CHECKPOINT_CONTAINERS_H_
#define SCONCE_SERVER_CHECKPOINT_CONTAINERS_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/base/file.h"
#include "server/checkpoint/checkpoint.h"

namespace sconce {

// As many entries of a file's metadata are kept; the rest is passed over.
inline constexpr size_t kMaxMetadataEntries = 256;

// What torch.save has written since PyTorch 1.6.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenTorchZip(File file,
                                                         const CheckpointOptions& options);

// What torch.save wrote before.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenLegacyTorch(File file,
                                                            const CheckpointOptions& options);

// What it wrote in the very first versions, 0.1.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenTorchTar(File file,
                                                         const CheckpointOptions& options);

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenSafetensors(File file,
                                                            const CheckpointOptions& options);

// An ONNX model, of which the initializers are taken.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenOnnx(File file, const CheckpointOptions& options);

// The JSON index of a checkpoint in several files (shard_index.h).
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenSharded(File file,
                                                        const CheckpointOptions& options);

// The folder in which a library keeps a checkpoint's files.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenFolder(const std::string& path,
                                                       const CheckpointOptions& options);

// The .metadata of a folder that torch.distributed.checkpoint wrote.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenDistributed(File file,
                                                            const CheckpointOptions& options);

// A file that holds its tensors itself, as whatever its content says it is: no index of others, so
// that nothing nests.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenSingleFile(File file,
                                                           const CheckpointOptions& options);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_CONTAINERS_H_
