#include <algorithm>
#include <deque>
#include <memory>
#include <unordered_set>
#include <utility>

#include "server/base/parallel.h"
#include "server/device/torch_errors.h"
#include "server/device/upload/passing_tensor.h"
#include "server/device/upload/pooled_weights.h"
#include "server/device/upload/portion_ring.h"
#include "server/device/upload/surveyed_weights.h"
#include "server/device/upload/weights_pass.h"

namespace sconce {
namespace {

class Survey {
 public:
  Survey(const Checkpoint& checkpoint, const UploadPlan& plan,
         absl::Span<const WeightsTarget> targets, const WeightsOptions& options)
      : checkpoint_(checkpoint),
        plan_(plan),
        targets_(targets),
        pool_(*options.pool),
        pass_(&checkpoint, &plan, &options, /*targets=*/{}),
        ring_(pass_.device(), pass_.portion_bytes(),
              std::min<int64_t>(pass_.portions(), pass_.threads())) {}

  absl::StatusOr<std::unique_ptr<WeightsSurvey>> Run() {
    if (absl::Status status = pass_.Begin(); !status.ok()) return status;
    const std::vector<UploadPlan::Job>& jobs = pass_.jobs();
    absl::Status passed = RunInParallel(jobs.size(), pass_.threads(), [&](size_t i) {
      absl::Status status = Guarded("host", [&] { return RunJob(jobs[i]); });
      if (!status.ok()) ring_.Fail(status);
      return status;
    });
    if (!passed.ok()) return passed;
    if (absl::Status status = checkpoint_.CheckUnchanged(); !status.ok()) return status;
    std::vector<ChunkDigests> contents;
    for (size_t i = 0; i < checkpoint_.tensors().size(); ++i) {
      contents.push_back(pass_.ContentOf(i));
    }
    std::vector<int64_t> new_bytes;
    for (const WeightsTarget& target : targets_) new_bytes.push_back(NewBytesOn(target.device));
    return std::make_unique<SurveyedWeights>(pass_.WeightsIdOfAll(), std::move(contents),
                                             std::move(new_bytes));
  }

 private:
  absl::Status RunJob(const UploadPlan::Job& job) {
    absl::StatusOr<PortionRing::Portion*> portion = ring_.Take();
    if (!portion.ok()) return portion.status();
    absl::Status passed = pass_.IsLarge(job.tensors[0]) ? PassInPieces(job.tensors[0], **portion)
                                                        : PassWhole(job.tensors, **portion);
    ring_.GiveBack(*portion);
    return passed;
  }

  absl::Status PassWhole(const std::vector<size_t>& tensors, const PortionRing::Portion& portion) {
    std::deque<PassingTensor> passing;
    std::vector<WeightsPass::Whole> whole;
    int64_t at = 0;
    for (const size_t tensor : tensors) {
      const int64_t size = checkpoint_.tensors()[tensor].size_bytes();
      passing.push_back(pass_.Start(tensor));
      whole.push_back({tensor, {portion.data() + at, static_cast<size_t>(size)}, &passing.back()});
      at += UploadPlan::Align(size);
    }
    if (absl::Status read = pass_.ReadWhole(whole); !read.ok()) return read;
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (absl::Status ended = pass_.End(tensors[i], passing[i]); !ended.ok()) return ended;
    }
    return absl::OkStatus();
  }

  absl::Status PassInPieces(size_t tensor, const PortionRing::Portion& portion) {
    const int64_t size = checkpoint_.tensors()[tensor].size_bytes();
    PassingTensor passing = pass_.Start(tensor);
    for (int64_t done = 0; done < size;) {
      const int64_t piece = std::min(pass_.PieceBytes(tensor), size - done);
      absl::Status read =
          pass_.ReadPiece(tensor, done, {portion.data(), static_cast<size_t>(piece)}, passing);
      if (!read.ok()) return read;
      done += piece;
    }
    return pass_.End(tensor, passing);
  }

  int64_t NewBytesOn(c10::Device device) const {
    std::unordered_set<const PooledTensor*> shared;
    // As a load does it: each tensor has memory of its own.
    const auto is_there = [&](const UploadPlan::Block& block) {
      if (!block.tensor.has_value() || block.size_bytes == 0) return false;
      const ChunkDigests& content = pass_.ContentOf(*block.tensor);
      for (const auto& candidate : pool_.Find(pass_.FormOf(block, device), content.front())) {
        if (*candidate.content == content && shared.insert(candidate.tensor.get()).second) {
          return true;
        }
      }
      return false;
    };
    int64_t bytes = 0;
    for (const UploadPlan::Block& block : plan_.blocks) {
      if (!is_there(block)) bytes += UploadPlan::Align(block.size_bytes);
    }
    return bytes;
  }

  const Checkpoint& checkpoint_;
  const UploadPlan& plan_;
  const absl::Span<const WeightsTarget> targets_;
  const TensorPool& pool_;
  WeightsPass pass_;
  PortionRing ring_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<WeightsSurvey>> SurveyWeights(
    const Checkpoint& checkpoint, const UploadPlan& plan, absl::Span<const WeightsTarget> targets,
    const WeightsOptions& options) {
  return Guarded("host", [&]() -> absl::StatusOr<std::unique_ptr<WeightsSurvey>> {
    return Survey(checkpoint, plan, targets, options).Run();
  });
}

}  // namespace sconce
