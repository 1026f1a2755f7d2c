// WeightsPass: one pass over the files of a checkpoint, tensor by tensor, by which all is found out
// that can be told from the bytes (passing_tensor.h). What else is done with them is up to the
// caller. Internal to the upload.
//
// Owned by one load. Each tensor is read by one thread at a time, several at the same time.

#ifndef SCONCE_SERVER_DEVICE_UPLOAD_WEIGHTS_PASS_H_
#define SCONCE_SERVER_DEVICE_UPLOAD_WEIGHTS_PASS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/base/content_hash.h"
#include "server/checkpoint/checkpoint.h"
#include "server/device/upload/passing_tensor.h"
#include "server/device/upload/pooled_weights.h"
#include "server/device/upload/tensor_pool.h"
#include "server/device/upload/upload_plan.h"

namespace sconce {

class WeightsPass {
 public:
  // `targets`: where the bytes go on to, if anywhere. Those of no other device than the CPU pass in
  // pieces that its cache holds. The pointers outlive it.
  WeightsPass(const Checkpoint* checkpoint, const UploadPlan* plan, const WeightsOptions* options,
              absl::Span<const WeightsTarget> targets);

  // The memory that bytes pass through, if any do: as many portions of that size as there are
  // threads will do.
  int64_t portion_bytes() const { return portion_bytes_; }
  int64_t portions() const { return portions_; }
  int threads() const { return threads_; }
  // For which the portions are page-locked: one of the targets, unless all are the CPU.
  c10::Device device() const { return device_; }

  // What is to be read; a tensor that is larger than a portion is a job of its own.
  const std::vector<UploadPlan::Job>& jobs() const { return jobs_; }
  bool IsLarge(size_t tensor) const;
  // The most bytes of a large tensor that pass at a time.
  int64_t PieceBytes(size_t tensor) const;

  // To be called first: verifies the files where that was asked for, and the tensors of no job.
  absl::Status Begin();

  PassingTensor Start(size_t tensor) const;

  // Reads each tensor in full, the i-th to the i-th destination.
  struct Whole {
    size_t tensor;
    absl::Span<std::byte> destination;
    PassingTensor* passing;
  };
  absl::Status ReadWhole(absl::Span<const Whole> tensors) const;
  absl::Status ReadPiece(size_t tensor, int64_t first_byte, absl::Span<std::byte> destination,
                         PassingTensor& passing) const;

  // The tensor has passed in full. INVALID_ARGUMENT where it is not finite and has to be.
  absl::Status End(size_t tensor, const PassingTensor& passing);

  // Of a tensor that has ended.
  const ChunkDigests& ContentOf(size_t tensor) const { return contents_[tensor]; }
  // REQUIRES: all have ended.
  std::string WeightsIdOfAll() const;

  // What the pool knows a block by. REQUIRES: the block has a tensor.
  TensorForm FormOf(const UploadPlan::Block& block, c10::Device device) const;

 private:
  void CutForTheCache();

  const Checkpoint& checkpoint_;
  const UploadPlan& plan_;
  const WeightsOptions& options_;
  c10::Device device_{c10::DeviceType::CPU};
  std::vector<UploadPlan::Job> jobs_;
  int64_t portion_bytes_ = 0;
  int64_t portions_ = 0;
  int threads_ = 1;
  // By tensor; each written by one job.
  std::vector<Digest128> ids_;
  std::vector<ChunkDigests> contents_;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_DEVICE_UPLOAD_WEIGHTS_PASS_H_
