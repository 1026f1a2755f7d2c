// DirectReader: has a device read tensors from their files by itself (Accelerator::DirectFile),
// into the place they have in its memory, until that fails for the first time.
//
// Thread-safe; owned by one upload.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_DIRECT_READER_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_DIRECT_READER_H_

#include <c10/core/Device.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "server/base/mutex.h"
#include "server/checkpoint/checkpoint.h"
#include "server/device/accelerator.h"
#include "server/device/upload/pooled_weights.h"

namespace sconce {

class DirectReader {
 public:
  // Bytes of a tensor, and where on the device they go.
  struct Piece {
    size_t tensor;
    int64_t first_byte;
    int64_t size_bytes;
    void* address;
  };

  // Both outlive it; `result` is told of each read.
  DirectReader(const Checkpoint* checkpoint, c10::Device device, DirectReads* result);

  // Whether the pieces were read. Where not, their places hold anything.
  // REQUIRES: the network wants them as they are; whoever had their memory before is done with it.
  bool Read(absl::Span<const Piece> pieces);

 private:
  absl::StatusOr<const Accelerator::DirectFile*> Opened(const File* file);
  absl::Status ReadPiece(const Piece& piece);

  const Checkpoint* const checkpoint_;
  const c10::Device device_;
  Mutex mutex_;
  std::map<const File*, std::unique_ptr<Accelerator::DirectFile>> files_ ABSL_GUARDED_BY(mutex_);
  DirectReads* const result_ ABSL_PT_GUARDED_BY(mutex_);
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_DIRECT_READER_H_
