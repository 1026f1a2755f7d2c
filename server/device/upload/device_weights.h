// DeviceWeights: the one piece of a device's memory that a version's weights lie in, while they are
// put there. All that is done is queued on one stream.
//
// Used by one thread at a time. Owned by an upload; throws what LibTorch throws.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_DEVICE_WEIGHTS_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_DEVICE_WEIGHTS_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "models/net.h"
#include "server/checkpoint/checkpoint.h"
#include "server/device/upload/upload_plan.h"

namespace sconce {

// Bytes of a checkpoint's tensor that lie in a portion of host memory.
struct TensorPiece {
  size_t tensor;
  int64_t first_byte;  // in the tensor
  int64_t at;          // in the portion, a multiple of UploadPlan::kAlignment
  int64_t size_bytes;
};

class DeviceWeights {
 public:
  // Takes no memory yet. All but the stream, whose device it is, outlive it.
  DeviceWeights(const Checkpoint* checkpoint, const UploadPlan* plan, c10::Stream stream);

  const std::string& device() const { return device_; }

  void Allocate();

  // Queues what is to be done with the pieces; the event is passed once `portion` has been read.
  // REQUIRES: `portion` is page-locked and ends with the last piece; with kAsTheyAre the pieces lie
  // as far from one another as their blocks do.
  c10::Event Take(UploadPlan::Way way, absl::Span<const TensorPiece> pieces,
                  const at::Tensor& portion);

  // Where the piece's bytes lie if they are as in the file. Any number of threads may ask at once.
  void* AddressOf(const TensorPiece& piece) const;
  // Queues the way back of pieces that lie at their addresses; passed once `portion` holds them.
  // REQUIRES: as Take with kAsTheyAre.
  c10::Event CopyBack(absl::Span<const TensorPiece> pieces, const at::Tensor& portion) const;

  // Queues the values of blocks that no tensor of the checkpoint has.
  void FillConstants();

  // Waits for all that was queued.
  void Await() const { stream_.synchronize(); }

  // Makes the net's tensors views of this memory, which they keep.
  void AssignTo(models::Net& net) const;

 private:
  // The memory that a portion which begins with that piece is copied to as it is.
  at::Tensor PlaceOf(const TensorPiece& first, int64_t size_bytes) const;
  void Cast(const TensorPiece& piece);

  const Checkpoint* const checkpoint_;
  const UploadPlan* const plan_;
  const c10::Stream stream_;
  const std::string device_;
  at::Tensor weights_;
  at::Tensor scratch_;  // what is to be cast, as it came
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_DEVICE_WEIGHTS_H_
