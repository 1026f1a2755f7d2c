// WeightsWriter: brings a tensor's bytes from a portion of host memory to the memory of one device,
// which may be the CPU, as its blocks want them. For another device all is queued on one stream.
//
// Thread-safe. Owned by a load; throws what LibTorch throws.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_WEIGHTS_WRITER_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_WEIGHTS_WRITER_H_

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/base/mutex.h"
#include "server/checkpoint/checkpoint.h"
#include "server/device/upload/pooled_weights.h"
#include "server/device/upload/upload_plan.h"
#include "server/device/upload/weights_memory.h"

namespace sconce {

// Bytes of a checkpoint's tensor that lie in a portion of host memory.
struct TensorPiece {
  size_t tensor;
  int64_t first_byte;  // in the tensor
  int64_t at;          // in the portion, a multiple of UploadPlan::kAlignment
  int64_t size_bytes;
};

class WeightsWriter {
 public:
  // Takes addresses at most, and no memory yet. The first two outlive it.
  WeightsWriter(const Checkpoint* checkpoint, const UploadPlan* plan, const WeightsTarget& target);

  c10::Device device() const { return target_.device; }
  const std::string& name() const { return name_; }

  // Memory for a block, of the device's and in its stream's order. At most once for each block.
  at::Tensor Allocate(const UploadPlan::Block& block);

  // What becomes of a piece: `memory` is that block's.
  struct Write {
    TensorPiece piece;
    size_t block;
    at::Tensor memory;
  };
  // Does it, or queues it; the event is passed once `portion` has been read, none: it has been.
  // REQUIRES: pieces of one tensor are cut at multiples of the plan's UnitBytes.
  std::optional<c10::Event> Put(absl::Span<const Write> writes, const at::Tensor& portion);

  // Queues the way back of a piece that lies in `memory` as it is in the file; passed once
  // `portion` holds it. REQUIRES: not the CPU.
  c10::Event CopyBack(const Write& write, const at::Tensor& portion);

  void Fill(const UploadPlan::Block& block, const at::Tensor& memory);

  // Waits for all that was queued.
  void Await() const;

 private:
  void Cast(const Write& write, const at::Tensor& came) const;

  const Checkpoint* const checkpoint_;
  const UploadPlan* const plan_;
  const WeightsTarget target_;
  const std::string name_;
  std::optional<HostWeightsMemory> host_memory_;  // on the CPU
  Mutex queueing_;
  // What is to be cast, as it came: one portion after the other, in the stream's order.
  at::Tensor scratch_ ABSL_GUARDED_BY(queueing_);
};

// Waits for all of them, for better or worse; the first error.
absl::Status AwaitAll(const std::deque<WeightsWriter>& writers);

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_WEIGHTS_WRITER_H_
