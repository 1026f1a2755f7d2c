// OverwriteWeights. First everything that may be refused, then the bytes from before are kept, then
// the tensors that changed are read once more and compared with the survey as they are written.

#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/StreamGuard.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/parallel.h"
#include "server/base/printable.h"
#include "server/device/torch_errors.h"
#include "server/device/upload/passing_tensor.h"
#include "server/device/upload/pooled_tensors.h"
#include "server/device/upload/pooled_weights.h"
#include "server/device/upload/portion_ring.h"
#include "server/device/upload/surveyed_weights.h"
#include "server/device/upload/target_errors.h"
#include "server/device/upload/weights_pass.h"
#include "server/device/upload/weights_writer.h"

namespace sconce {
namespace {

using Live = std::shared_ptr<const ResidentWeights>;

struct Range {
  int64_t begin;
  int64_t end;
};

// A block of one device that is written over.
struct Change {
  size_t target;
  size_t block;
  std::shared_ptr<PooledTensor> before;
  std::shared_ptr<const ChunkDigests> content_before;  // null: others did not know it
  // Of the tensor's bytes, in order, each at the bounds of chunks.
  std::vector<Range> changed;
  // Of the block's bytes, what is kept, and where one range after the other lies.
  std::vector<Range> to_keep;
  at::Tensor kept;
};

// Weights that lie where others lay.
class Written final : public Overwrite {
 public:
  Written(std::vector<WeightsTarget> targets, std::vector<Live> live, TensorPool* pool)
      : targets_(std::move(targets)), live_(std::move(live)), pool_(*pool) {
    for (const Live& weights : live_) {
      before_.push_back(static_cast<const PooledTensors&>(*weights).Take());
    }
  }

  // Others find the weights from here on, unless they were taken back.
  ~Written() override {
    for (NewTensor& tensor : new_tensors_) pool_.Add(tensor.tensor, std::move(tensor.content));
  }

  const std::vector<Live>& resident() const override { return resident_; }

  absl::Status Undo() override {
    if (!is_kept_) {
      return absl::FailedPreconditionError("the weights from before were not kept");
    }
    if (absl::Status restored = Restore(); !restored.ok()) return restored;
    for (const Live& weights : resident_) static_cast<const PooledTensors&>(*weights).Take();
    LeaveAsBefore();
    return absl::OkStatus();
  }

  const PooledTensors::Blocks& before(size_t target) const { return before_[target]; }
  std::vector<Change>& changes() { return changes_; }
  bool is_kept() const { return is_kept_; }

  // FAILED_PRECONDITION where others have a tensor that changed. REQUIRES: changes() is complete;
  // nobody else holds what before() has.
  absl::Status Withdraw() {
    for (Change& change : changes_) {
      std::shared_ptr<PooledTensor>& tensor = before_[change.target][change.block];
      if (!pool_.Withdraw(tensor)) {
        return absl::FailedPreconditionError(
            absl::StrCat(targets_[change.target].device.str(),
                         ": a tensor that changed is in use by another version too"));
      }
      change.before = tensor;
    }
    return absl::OkStatus();
  }

  void Keep(int64_t most_bytes) {
    int64_t bytes = 0;
    for (const Change& change : changes_) {
      for (const Range& range : change.to_keep) bytes += range.end - range.begin;
    }
    if (bytes > most_bytes) return;
    const c10::InferenceMode normal(false);
    for (Change& change : changes_) {
      int64_t size = 0;
      for (const Range& range : change.to_keep) size += range.end - range.begin;
      change.kept = at::empty({size}, at::TensorOptions().dtype(at::kByte));
      Copy(change, /*back=*/false);
    }
    is_kept_ = true;
  }

  // Brings back what was kept. REQUIRES: is_kept().
  absl::Status Restore() {
    for (Change& change : changes_) {
      const WeightsTarget& target = targets_[change.target];
      absl::Status restored = Guarded(target.device.str(), [&] {
        Copy(change, /*back=*/true);
        if (target.stream.has_value()) target.stream->synchronize();
        return absl::OkStatus();
      });
      if (!restored.ok()) return restored;
    }
    return absl::OkStatus();
  }

  // `live` has its tensors again, and others find them, but for those that were spoilt.
  void LeaveAsBefore(bool spoilt = false) {
    new_tensors_.clear();
    resident_.clear();
    for (Change& change : changes_) {
      const bool was_withdrawn = std::exchange(change.before, nullptr) != nullptr;
      if (spoilt || !was_withdrawn || change.content_before == nullptr) continue;
      pool_.Add(before_[change.target][change.block], *change.content_before);
    }
    changes_.clear();
    is_kept_ = false;
    for (size_t t = 0; t < live_.size(); ++t) {
      static_cast<const PooledTensors&>(*live_[t]).GiveBack(std::move(before_[t]));
    }
  }

  // All is written: makes the weights that are there now.
  void Finish(const UploadPlan& plan, const WeightsPass& pass, const SurveyedWeights& survey) {
    std::vector<PooledTensors::Blocks> tensors = before_;
    std::vector<int64_t> changed_bytes(targets_.size(), 0);
    for (Change& change : changes_) {
      const UploadPlan::Block& block = plan.blocks[change.block];
      auto tensor = std::make_shared<PooledTensor>(
          pass.FormOf(block, targets_[change.target].device), change.before->memory());
      tensors[change.target][change.block] = tensor;
      changed_bytes[change.target] += UploadPlan::Align(block.size_bytes);
      new_tensors_.push_back({std::move(tensor), survey.ContentOf(*block.tensor)});
    }
    for (size_t t = 0; t < targets_.size(); ++t) {
      resident_.push_back(std::make_shared<PooledTensors>(
          targets_[t].device, plan, std::move(tensors[t]), plan.weights_bytes - changed_bytes[t]));
    }
  }

 private:
  struct NewTensor {
    std::shared_ptr<PooledTensor> tensor;
    ChunkDigests content;
  };

  // Between the tensor and what is kept of it. Throws what LibTorch throws.
  void Copy(const Change& change, bool back) const {
    const c10::InferenceMode normal(false);
    const c10::OptionalStreamGuard on_stream(targets_[change.target].stream);
    const at::Tensor& memory = before_[change.target][change.block]->memory();
    int64_t at = 0;
    for (const Range& range : change.to_keep) {
      const int64_t size = range.end - range.begin;
      const at::Tensor there = memory.narrow(0, range.begin, size);
      const at::Tensor here = change.kept.narrow(0, at, size);
      back ? there.copy_(here) : here.copy_(there);
      at += size;
    }
  }

  const std::vector<WeightsTarget> targets_;
  const std::vector<Live> live_;
  TensorPool& pool_;
  std::vector<PooledTensors::Blocks> before_;  // by target
  std::vector<Change> changes_;
  bool is_kept_ = false;
  std::vector<Live> resident_;
  std::vector<NewTensor> new_tensors_;
};

class Overwriting {
 public:
  Overwriting(const Checkpoint& checkpoint, const UploadPlan& plan,
              absl::Span<const WeightsTarget> targets, absl::Span<const Live> live,
              const SurveyedWeights& survey, const WeightsOptions& options)
      : checkpoint_(checkpoint),
        plan_(plan),
        targets_(targets),
        live_(live),
        survey_(survey),
        pool_(*options.pool),
        pass_(&checkpoint, &plan, &options, targets) {
    for (const WeightsTarget& target : targets) writers_.emplace_back(&checkpoint, &plan, target);
  }

  ~Overwriting() { static_cast<void>(AwaitAll(writers_)); }

  absl::StatusOr<std::unique_ptr<Overwrite>> Run(int64_t keep_bytes, bool* destroyed) {
    if (absl::Status status = CheckFits(); !status.ok()) return status;
    if (absl::Status status = checkpoint_.CheckUnchanged(); !status.ok()) return status;
    auto written =
        std::make_unique<Written>(std::vector<WeightsTarget>(targets_.begin(), targets_.end()),
                                  std::vector<Live>(live_.begin(), live_.end()), &pool_);
    FindChanges(*written);
    absl::Status status = written->Withdraw();
    if (status.ok()) status = Guarded("host", [&] { return Prepare(*written, keep_bytes); });
    if (status.ok()) status = Write(written->changes());
    if (status.ok()) {
      written->Finish(plan_, pass_, survey_);
      return written;
    }
    // What is still queued would write over what is brought back.
    const absl::Status awaited = AwaitAll(writers_);
    const bool spoilt =
        has_begun_ && !(awaited.ok() && written->is_kept() && written->Restore().ok());
    written->LeaveAsBefore(spoilt);
    if (spoilt) *destroyed = true;
    return status;
  }

 private:
  absl::Status CheckFits() const {
    for (size_t t = 0; t < targets_.size(); ++t) {
      const auto* live = dynamic_cast<const PooledTensors*>(live_[t].get());
      if (live == nullptr || live->device() != targets_[t].device || !live->IsLaidOutAs(plan_)) {
        return absl::FailedPreconditionError(absl::StrCat(
            targets_[t].device.str(),
            ": the weights there are of another architecture, type or layout, or tied otherwise"));
      }
    }
    return absl::OkStatus();
  }

  void FindChanges(Written& written) const {
    for (size_t t = 0; t < targets_.size(); ++t) {
      for (size_t b = 0; b < plan_.blocks.size(); ++b) {
        const UploadPlan::Block& block = plan_.blocks[b];
        if (!block.tensor.has_value() || block.size_bytes == 0) continue;
        const PooledTensor& before = *written.before(t)[b];
        Change change{t, b, nullptr, pool_.ContentOf(before), {}, {}, {}};
        const bool same_form = before.form() == pass_.FormOf(block, targets_[t].device);
        change.changed =
            ChangedRanges(same_form ? change.content_before.get() : nullptr, *block.tensor);
        if (change.changed.empty()) continue;
        change.to_keep = plan_.IsAsInFile(checkpoint_, block)
                             ? change.changed
                             : std::vector<Range>{{0, block.size_bytes}};
        written.changes().push_back(std::move(change));
      }
    }
  }

  // `before`: null where nothing is known of it.
  std::vector<Range> ChangedRanges(const ChunkDigests* before, size_t tensor) const {
    const ChunkDigests& now = survey_.ContentOf(tensor);
    const int64_t size = checkpoint_.tensors()[tensor].size_bytes();
    std::vector<Range> ranges;
    for (size_t i = 0; i < now.size(); ++i) {
      if (before != nullptr && (*before)[i] == now[i]) continue;
      const int64_t begin = static_cast<int64_t>(i) * kDigestChunkBytes;
      const int64_t end = std::min(size, begin + kDigestChunkBytes);
      if (!ranges.empty() && ranges.back().end == begin) {
        ranges.back().end = end;
      } else {
        ranges.push_back({begin, end});
      }
    }
    return ranges;
  }

  absl::Status Prepare(Written& written, int64_t keep_bytes) {
    written.Keep(keep_bytes);
    ring_ = std::make_unique<PortionRing>(pass_.device(), pass_.portion_bytes(),
                                          std::min<int64_t>(pass_.portions(), 2 * pass_.threads()));
    return absl::OkStatus();
  }

  absl::Status Write(const std::vector<Change>& changes) {
    std::vector<size_t> tensors;
    for (const Change& change : changes) tensors.push_back(*plan_.blocks[change.block].tensor);
    std::sort(tensors.begin(), tensors.end());
    tensors.erase(std::unique(tensors.begin(), tensors.end()), tensors.end());
    absl::Status written = RunInParallel(tensors.size(), pass_.threads(), [&](size_t i) {
      absl::Status status = Guarded("host", [&] { return WriteOne(tensors[i], changes); });
      if (!status.ok()) ring_->Fail(status);
      return status;
    });
    if (!written.ok()) return written;
    if (absl::Status status = checkpoint_.CheckUnchanged(); !status.ok()) return status;
    return AwaitAll(writers_);
  }

  absl::Status WriteOne(size_t tensor, const std::vector<Change>& changes) {
    const int64_t size = checkpoint_.tensors()[tensor].size_bytes();
    PassingTensor passing = pass_.Start(tensor);
    for (int64_t done = 0; done < size;) {
      absl::StatusOr<PortionRing::Portion*> portion = ring_->Take();
      if (!portion.ok()) return portion.status();
      const TensorPiece piece = {tensor, done, 0, std::min(pass_.PieceBytes(tensor), size - done)};
      absl::Status read = pass_.ReadPiece(
          tensor, done, {(*portion)->data(), static_cast<size_t>(piece.size_bytes)}, passing);
      if (!read.ok()) return read;
      const ChunkDigests& chunks = passing.chunks();
      if (!std::equal(chunks.begin(), chunks.end(), survey_.ContentOf(tensor).begin())) {
        return absl::AbortedError(
            absl::StrCat(Printable(checkpoint_.path()), ": the file changed while it was read"));
      }
      if (absl::Status sent = Send(piece, changes, *portion); !sent.ok()) return sent;
      ring_->GiveBack(*portion);
      done += piece.size_bytes;
    }
    return absl::OkStatus();
  }

  absl::Status Send(const TensorPiece& piece, const std::vector<Change>& changes,
                    PortionRing::Portion* portion) {
    for (size_t t = 0; t < targets_.size(); ++t) {
      std::vector<WeightsWriter::Write> writes;
      for (const Change& change : changes) {
        if (change.target != t || plan_.blocks[change.block].tensor != piece.tensor) continue;
        AddWrites(piece, change, &writes);
      }
      if (writes.empty()) continue;
      has_begun_ = true;
      absl::Status put = Guarded(writers_[t].name(), [&] {
        if (auto copied = writers_[t].Put(writes, portion->memory)) {
          portion->copied.push_back(*std::move(copied));
        }
        return absl::OkStatus();
      });
      if (!put.ok()) return put;
    }
    return absl::OkStatus();
  }

  // What of the piece changed; all of it where it is laid out anew and any of it changed.
  void AddWrites(const TensorPiece& piece, const Change& change,
                 std::vector<WeightsWriter::Write>* writes) const {
    const bool as_in_file = plan_.IsAsInFile(checkpoint_, plan_.blocks[change.block]);
    for (const Range& range : change.changed) {
      const int64_t begin = std::max(range.begin, piece.first_byte);
      const int64_t end = std::min(range.end, piece.first_byte + piece.size_bytes);
      if (begin >= end) continue;
      const TensorPiece part = {piece.tensor, begin, piece.at + begin - piece.first_byte,
                                end - begin};
      writes->push_back({as_in_file ? part : piece, change.block, change.before->memory()});
      if (!as_in_file) return;
    }
  }

  const Checkpoint& checkpoint_;
  const UploadPlan& plan_;
  const absl::Span<const WeightsTarget> targets_;
  const absl::Span<const Live> live_;
  const SurveyedWeights& survey_;
  TensorPool& pool_;
  const WeightsPass pass_;
  std::deque<WeightsWriter> writers_;  // by target
  std::unique_ptr<PortionRing> ring_;
  std::atomic<bool> has_begun_ = false;  // something was written
};

}  // namespace

absl::StatusOr<std::unique_ptr<Overwrite>> OverwriteWeights(
    const Checkpoint& checkpoint, const UploadPlan& plan, absl::Span<const WeightsTarget> targets,
    absl::Span<const std::shared_ptr<const ResidentWeights>> live, const WeightsSurvey& survey,
    const WeightsOptions& options, int64_t keep_bytes, bool* destroyed) {
  *destroyed = false;
  auto written = Guarded("host", [&]() -> absl::StatusOr<std::unique_ptr<Overwrite>> {
    return Overwriting(checkpoint, plan, targets, live, static_cast<const SurveyedWeights&>(survey),
                       options)
        .Run(keep_bytes, destroyed);
  });
  if (!written.ok()) return Diagnose(written.status(), targets, options.health);
  return written;
}

}  // namespace sconce
