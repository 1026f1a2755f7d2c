// LoadWeights. Bytes pass through a portion; while they do, the pool says of each tensor whether a
// device may have it already. Until that is known for sure nothing is written there. Where a tensor
// turns out to be another one after all, what has passed of it is read again.

#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/mutex.h"
#include "server/base/parallel.h"
#include "server/base/printable.h"
#include "server/device/torch_errors.h"
#include "server/device/upload/direct_reader.h"
#include "server/device/upload/passing_tensor.h"
#include "server/device/upload/pooled_tensors.h"
#include "server/device/upload/pooled_weights.h"
#include "server/device/upload/portion_ring.h"
#include "server/device/upload/target_errors.h"
#include "server/device/upload/weights_pass.h"
#include "server/device/upload/weights_writer.h"

namespace sconce {
namespace {

using Way = UploadPlan::Way;

// One is filled while the one before is copied.
constexpr int64_t kPortionsPerThread = 2;

class Load {
 public:
  Load(const Checkpoint& checkpoint, const UploadPlan& plan,
       absl::Span<const WeightsTarget> targets, const WeightsOptions& options, DirectReads* direct)
      : checkpoint_(checkpoint),
        plan_(plan),
        targets_(targets),
        pool_(*options.pool),
        pass_(&checkpoint, &plan, &options, targets),
        places_(targets.size(), std::vector<Place>(plan.blocks.size())) {
    for (const WeightsTarget& target : targets) writers_.emplace_back(&checkpoint, &plan, target);
    for (size_t i = 0; i < targets.size() && direct != nullptr; ++i) {
      if (targets[i].device.is_cpu()) continue;
      direct_target_ = i;
      direct_.emplace(&checkpoint, targets[i].device, direct);
      break;
    }
  }

  // What is queued reads and writes what is freed next.
  ~Load() { static_cast<void>(AwaitAll(writers_)); }

  absl::StatusOr<LoadedWeights> Run() {
    if (absl::Status status = AllocateWhatIsNewForSure(); !status.ok()) return status;
    if (absl::Status status = pass_.Begin(); !status.ok()) return status;
    if (absl::Status status = MakeRing(); !status.ok()) return status;
    const std::vector<UploadPlan::Job>& jobs = pass_.jobs();
    absl::Status moved = RunInParallel(jobs.size(), pass_.threads(), [&](size_t i) {
      absl::Status status = Guarded("host", [&] { return RunJob(jobs[i]); });
      if (!status.ok()) ring_->Fail(status);
      return status;
    });
    if (!moved.ok()) return moved;
    if (absl::Status status = checkpoint_.CheckUnchanged(); !status.ok()) return status;
    if (absl::Status status = AwaitAll(writers_); !status.ok()) return status;
    return Result();
  }

 private:
  // Where a block lies, or may come to lie, on a device.
  struct Place {
    // Those that agree with all that has passed.
    std::vector<TensorPool::Candidate> candidates;
    size_t agreed_chunks = 0;
    std::shared_ptr<PooledTensor> tensor;  // null: not known yet
    bool is_shared = false;
    // What had passed when its memory was taken, and has to be read again.
    int64_t missed_bytes = 0;

    bool wants_bytes() const { return tensor != nullptr && !is_shared; }
  };

  bool IsPooled(const UploadPlan::Block& block) const {
    return block.tensor.has_value() && block.size_bytes > 0;
  }

  // Before anything is read, so that a device without room for it says so soon.
  absl::Status AllocateWhatIsNewForSure() {
    for (size_t t = 0; t < targets_.size(); ++t) {
      std::vector<size_t> sure;
      int64_t bytes = 0;
      for (size_t b = 0; b < plan_.blocks.size(); ++b) {
        const UploadPlan::Block& block = plan_.blocks[b];
        if (IsPooled(block) && pool_.HasAny(pass_.FormOf(block, targets_[t].device))) continue;
        sure.push_back(b);
        bytes += UploadPlan::Align(block.size_bytes);
      }
      for (const size_t b : sure) {
        if (absl::Status status = Allocate(t, b, bytes); !status.ok()) return status;
        const UploadPlan::Block& block = plan_.blocks[b];
        if (block.tensor.has_value()) continue;
        absl::Status filled = Guarded(writers_[t].name(), [&] {
          writers_[t].Fill(block, places_[t][b].tensor->memory());
          return absl::OkStatus();
        });
        if (!filled.ok()) return filled;
      }
    }
    // What a device reads by itself is in no stream's order: whoever had this memory before is to
    // be done with it.
    return direct_.has_value() ? AwaitAll(writers_) : absl::OkStatus();
  }

  // `together_bytes`: with what else is taken now, for the message.
  absl::Status Allocate(size_t target, size_t block, int64_t together_bytes) {
    Place& place = places_[target][block];
    const absl::Status status = Guarded(writers_[target].name(), [&] {
      const UploadPlan::Block& planned = plan_.blocks[block];
      const c10::Device device = targets_[target].device;
      TensorForm form = IsPooled(planned)
                            ? pass_.FormOf(planned, device)
                            : TensorForm{device, DType::kBytes, {}, planned.type, planned.format};
      place.tensor =
          std::make_shared<PooledTensor>(std::move(form), writers_[target].Allocate(planned));
      return absl::OkStatus();
    });
    if (!absl::IsResourceExhausted(status)) return status;
    return NoMemoryOn(targets_[target].device, together_bytes + plan_.scratch_bytes, status);
  }

  absl::Status MakeRing() {
    const int64_t portions = std::min(
        pass_.portions(), pass_.threads() * (pass_.device().is_cpu() ? 1 : kPortionsPerThread));
    const std::string what = absl::StrCat("page-locked memory for a load, ", portions, " x ",
                                          pass_.portion_bytes(), " bytes");
    return Guarded(what, [&] {
      ring_ = std::make_unique<PortionRing>(pass_.device(), pass_.portion_bytes(), portions);
      return absl::OkStatus();
    });
  }

  absl::Status RunJob(const UploadPlan::Job& job) {
    if (pass_.IsLarge(job.tensors[0])) return PassInPieces(job.tensors[0]);
    absl::StatusOr<PortionRing::Portion*> portion = ring_->Take();
    if (!portion.ok()) return portion.status();
    std::deque<PassingTensor> passing;
    std::vector<TensorPiece> pieces;
    int64_t at = 0;
    for (const size_t tensor : job.tensors) {
      const int64_t size = checkpoint_.tensors()[tensor].size_bytes();
      pieces.push_back({tensor, 0, at, size});
      passing.push_back(pass_.Start(tensor));
      at += UploadPlan::Align(size);
    }
    const absl::StatusOr<bool> direct = ReadDirectly(job.way, pieces, **portion);
    if (!direct.ok()) return direct.status();
    if (*direct) {
      for (size_t i = 0; i < pieces.size(); ++i) passing[i].Update(BytesOf(pieces[i], **portion));
    } else {
      std::vector<WeightsPass::Whole> whole;
      for (size_t i = 0; i < pieces.size(); ++i) {
        whole.push_back({pieces[i].tensor, DestinationOf(pieces[i], **portion), &passing[i]});
      }
      if (absl::Status read = pass_.ReadWhole(whole); !read.ok()) return read;
    }
    const std::vector<bool> in_place = InPlace(pieces);
    for (size_t i = 0; i < pieces.size(); ++i) {
      if (absl::Status status = Follow(pieces[i], passing[i]); !status.ok()) return status;
      if (absl::Status status = pass_.End(pieces[i].tensor, passing[i]); !status.ok()) {
        return status;
      }
    }
    return Send(pieces, in_place, *portion, *direct);
  }

  absl::Status PassInPieces(size_t tensor) {
    const TensorDescriptor& described = checkpoint_.tensors()[tensor];
    const int64_t size = described.size_bytes();
    PassingTensor passing = pass_.Start(tensor);
    if (std::byte* memory = MemoryToReadInto(tensor)) {
      const WeightsPass::Whole whole = {tensor, {memory, static_cast<size_t>(size)}, &passing};
      if (absl::Status read = pass_.ReadWhole({whole}); !read.ok()) return read;
      return pass_.End(tensor, passing);
    }
    const Way way = plan_.WayOf(checkpoint_, tensor);
    for (int64_t done = 0; done < size;) {
      absl::StatusOr<PortionRing::Portion*> portion = ring_->Take();
      if (!portion.ok()) return portion.status();
      const TensorPiece piece = {tensor, done, 0, std::min(pass_.PieceBytes(tensor), size - done)};
      const absl::StatusOr<bool> direct = ReadDirectly(way, {piece}, **portion);
      if (!direct.ok()) return direct.status();
      const std::vector<bool> in_place = InPlace({piece});
      if (*direct) {
        passing.Update(BytesOf(piece, **portion));
      } else {
        absl::Status read = pass_.ReadPiece(tensor, done, DestinationOf(piece, **portion), passing);
        if (!read.ok()) return read;
      }
      if (absl::Status status = Follow(piece, passing); !status.ok()) return status;
      if (absl::Status sent = Send({piece}, in_place, *portion, *direct); !sent.ok()) return sent;
      done += piece.size_bytes;
    }
    if (absl::Status status = pass_.End(tensor, passing); !status.ok()) return status;
    return ReadMissed(tensor);
  }

  static absl::Span<std::byte> BytesOf(const TensorPiece& piece,
                                       const PortionRing::Portion& portion) {
    return {portion.data() + piece.at, static_cast<size_t>(piece.size_bytes)};
  }

  // Where the tensor's bytes are to lie in the end, if that is known, and they may be read to there
  // without passing through a portion.
  std::byte* MemoryToReadInto(size_t tensor) const {
    if (targets_.size() != 1 || !targets_[0].device.is_cpu()) return nullptr;
    if (plan_.WayOf(checkpoint_, tensor) != Way::kAsTheyAre) return nullptr;
    const Place& place = places_[0][plan_.blocks_of_tensor[tensor][0]];
    return place.wants_bytes() ? static_cast<std::byte*>(place.tensor->memory().data_ptr())
                               : nullptr;
  }

  absl::Span<std::byte> DestinationOf(const TensorPiece& piece,
                                      const PortionRing::Portion& portion) const {
    std::byte* const memory = MemoryToReadInto(piece.tensor);
    if (memory == nullptr) return BytesOf(piece, portion);
    return {memory + piece.first_byte, static_cast<size_t>(piece.size_bytes)};
  }

  std::vector<bool> InPlace(absl::Span<const TensorPiece> pieces) const {
    std::vector<bool> in_place;
    for (const TensorPiece& piece : pieces) {
      in_place.push_back(MemoryToReadInto(piece.tensor) != nullptr);
    }
    return in_place;
  }

  // Whether a device has read the pieces by itself; they are in the portion, too, then.
  absl::StatusOr<bool> ReadDirectly(Way way, absl::Span<const TensorPiece> pieces,
                                    const PortionRing::Portion& portion) {
    if (way != Way::kAsTheyAre || !direct_.has_value()) return false;
    std::vector<WeightsWriter::Write> writes;
    std::vector<DirectReader::Piece> placed;
    for (const TensorPiece& piece : pieces) {
      const size_t block = plan_.blocks_of_tensor[piece.tensor][0];
      const Place& place = places_[direct_target_][block];
      if (!place.wants_bytes()) return false;
      writes.push_back({piece, block, place.tensor->memory()});
      auto* const memory = static_cast<std::byte*>(place.tensor->memory().mutable_data_ptr());
      placed.push_back(
          {piece.tensor, piece.first_byte, piece.size_bytes, memory + piece.first_byte});
    }
    if (!direct_->Read(placed)) return false;
    WeightsWriter& writer = writers_[direct_target_];
    return Guarded(writer.name(), [&]() -> absl::StatusOr<bool> {
      for (const WeightsWriter::Write& write : writes) {
        writer.CopyBack(write, portion.memory).synchronize();
      }
      return true;
    });
  }

  // What is known of the tensor's places now that `piece` has passed, its last one so far.
  absl::Status Follow(const TensorPiece& piece, const PassingTensor& passing) {
    const bool is_last =
        piece.first_byte + piece.size_bytes == checkpoint_.tensors()[piece.tensor].size_bytes();
    const ChunkDigests& chunks = passing.chunks();
    if (chunks.empty()) return absl::OkStatus();
    for (size_t t = 0; t < targets_.size(); ++t) {
      for (const size_t b : plan_.blocks_of_tensor[piece.tensor]) {
        Place& place = places_[t][b];
        if (place.tensor != nullptr) continue;
        if (place.agreed_chunks == 0) {
          place.candidates =
              pool_.Find(pass_.FormOf(plan_.blocks[b], targets_[t].device), chunks[0]);
        }
        std::erase_if(place.candidates, [&](const TensorPool::Candidate& candidate) {
          return !std::equal(
              chunks.begin() + static_cast<ptrdiff_t>(place.agreed_chunks), chunks.end(),
              candidate.content->begin() + static_cast<ptrdiff_t>(place.agreed_chunks));
        });
        place.agreed_chunks = chunks.size();
        if (is_last) ShareOne(place);
        if (place.tensor != nullptr || !place.candidates.empty()) continue;
        const int64_t size = plan_.blocks[b].size_bytes;
        if (absl::Status status = Allocate(t, b, size); !status.ok()) return status;
        place.missed_bytes = piece.first_byte;
        if (direct_.has_value() && t == direct_target_) {
          absl::Status awaited = Guarded(writers_[t].name(), [&] {
            writers_[t].Await();
            return absl::OkStatus();
          });
          if (!awaited.ok()) return awaited;
        }
      }
    }
    return absl::OkStatus();
  }

  // Each tensor of a version has memory that no other tensor of it has, even if they are alike now:
  // they need not be so for ever, and may then be written over one by one.
  void ShareOne(Place& place) {
    MutexLock lock(&sharing_);
    for (const TensorPool::Candidate& candidate : place.candidates) {
      if (!shared_.insert(candidate.tensor.get()).second) continue;
      place.tensor = candidate.tensor;
      place.is_shared = true;
      break;
    }
    place.candidates.clear();
  }

  // Brings the pieces to where they are wanted, those left out that are there already, and gives
  // the portion back.
  absl::Status Send(absl::Span<const TensorPiece> pieces, const std::vector<bool>& in_place,
                    PortionRing::Portion* portion, bool direct) {
    for (size_t t = 0; t < targets_.size(); ++t) {
      if (direct && t == direct_target_) continue;
      std::vector<WeightsWriter::Write> writes;
      for (size_t i = 0; i < pieces.size(); ++i) {
        if (in_place[i]) continue;
        for (const size_t b : plan_.blocks_of_tensor[pieces[i].tensor]) {
          const Place& place = places_[t][b];
          if (place.wants_bytes()) writes.push_back({pieces[i], b, place.tensor->memory()});
        }
      }
      if (absl::Status put = Put(t, writes, portion); !put.ok()) return put;
    }
    ring_->GiveBack(portion);
    return absl::OkStatus();
  }

  absl::Status Put(size_t target, const std::vector<WeightsWriter::Write>& writes,
                   PortionRing::Portion* portion) {
    if (writes.empty()) return absl::OkStatus();
    WeightsWriter& writer = writers_[target];
    const absl::Status status = Guarded(writer.name(), [&] {
      if (auto copied = writer.Put(writes, portion->memory)) {
        portion->copied.push_back(*std::move(copied));
      }
      return absl::OkStatus();
    });
    if (!absl::IsResourceExhausted(status)) return status;
    return NoMemoryOn(writer.device(), plan_.scratch_bytes, status);
  }

  // What passed of a tensor before it was known that a device does not have it.
  absl::Status ReadMissed(size_t tensor) {
    int64_t missed = 0;
    for (const std::vector<Place>& places : places_) {
      for (const size_t b : plan_.blocks_of_tensor[tensor]) {
        missed = std::max(missed, places[b].missed_bytes);
      }
    }
    // To the end of a chunk, so that all of it can be compared with what passed before.
    const int64_t size = checkpoint_.tensors()[tensor].size_bytes();
    const int64_t end =
        std::min(size, (missed + kDigestChunkBytes - 1) / kDigestChunkBytes * kDigestChunkBytes);
    PassingTensor again = pass_.Start(tensor);
    for (int64_t done = 0; done < end && missed > 0;) {
      absl::StatusOr<PortionRing::Portion*> portion = ring_->Take();
      if (!portion.ok()) return portion.status();
      const TensorPiece piece = {tensor, done, 0, std::min(pass_.PieceBytes(tensor), size - done)};
      absl::Status read = pass_.ReadPiece(tensor, done, BytesOf(piece, **portion), again);
      if (!read.ok()) return read;
      for (size_t t = 0; t < targets_.size(); ++t) {
        std::vector<WeightsWriter::Write> writes;
        for (const size_t b : plan_.blocks_of_tensor[tensor]) {
          const Place& place = places_[t][b];
          if (place.missed_bytes > done) writes.push_back({piece, b, place.tensor->memory()});
        }
        if (absl::Status put = Put(t, writes, *portion); !put.ok()) return put;
      }
      ring_->GiveBack(*portion);
      done += piece.size_bytes;
    }
    const ChunkDigests& chunks = again.chunks();
    if (std::equal(chunks.begin(), chunks.end(), pass_.ContentOf(tensor).begin())) {
      return absl::OkStatus();
    }
    return absl::AbortedError(
        absl::StrCat(Printable(checkpoint_.path()), ": the file changed while it was read"));
  }

  LoadedWeights Result() {
    LoadedWeights loaded;
    loaded.weights_id = pass_.WeightsIdOfAll();
    for (size_t t = 0; t < targets_.size(); ++t) {
      PooledTensors::Blocks tensors;
      int64_t shared_bytes = 0;
      for (size_t b = 0; b < plan_.blocks.size(); ++b) {
        const UploadPlan::Block& block = plan_.blocks[b];
        Place& place = places_[t][b];
        if (place.is_shared) {
          shared_bytes += UploadPlan::Align(block.size_bytes);
        } else if (IsPooled(block)) {
          pool_.Add(place.tensor, pass_.ContentOf(*block.tensor));
        }
        tensors.push_back(std::move(place.tensor));
      }
      loaded.resident.push_back(std::make_shared<PooledTensors>(targets_[t].device, plan_,
                                                                std::move(tensors), shared_bytes));
    }
    return loaded;
  }

  const Checkpoint& checkpoint_;
  const UploadPlan& plan_;
  const absl::Span<const WeightsTarget> targets_;
  TensorPool& pool_;
  WeightsPass pass_;
  // By target and block; those of one tensor are touched by the job that reads it.
  std::vector<std::vector<Place>> places_;
  std::deque<WeightsWriter> writers_;  // by target
  size_t direct_target_ = 0;
  std::optional<DirectReader> direct_;
  std::unique_ptr<PortionRing> ring_;

  Mutex sharing_;
  std::unordered_set<const PooledTensor*> shared_ ABSL_GUARDED_BY(sharing_);
};

}  // namespace

absl::StatusOr<LoadedWeights> LoadWeights(const Checkpoint& checkpoint, const UploadPlan& plan,
                                          absl::Span<const WeightsTarget> targets,
                                          const WeightsOptions& options, DirectReads* direct) {
  absl::StatusOr<LoadedWeights> loaded = Guarded("host", [&]() -> absl::StatusOr<LoadedWeights> {
    return Load(checkpoint, plan, targets, options, direct).Run();
  });
  if (!loaded.ok()) return Diagnose(loaded.status(), targets, options.health);
  return loaded;
}

}  // namespace sconce
