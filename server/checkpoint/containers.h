// The seam behind OpenCheckpoint: one function for each container that can be read. A container is
// added by writing its function and a line in open_checkpoint.cc.
//
// Each takes the open file, checks its structure and describes its tensors. Errors leave out the
// path, which OpenCheckpoint adds.
#ifndef SCONCE_SERVER_CHECKPOINT_CONTAINERS_H_
#define SCONCE_SERVER_CHECKPOINT_CONTAINERS_H_

#include <memory>

#include "absl/status/statusor.h"
#include "server/base/file.h"
#include "server/checkpoint/checkpoint.h"

namespace sconce {

// What torch.save has written since PyTorch 1.6.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenTorchZip(File file,
                                                         const CheckpointOptions& options);

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenSafetensors(File file,
                                                            const CheckpointOptions& options);

}  // namespace sconce

#endif  // SCONCE_SERVER_CHECKPOINT_CONTAINERS_H_
