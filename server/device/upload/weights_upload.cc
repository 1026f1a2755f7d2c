#include "server/device/upload/weights_upload.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/content_hash.h"
#include "server/base/mutex.h"
#include "server/base/parallel.h"
#include "server/checkpoint/tensor_bounds.h"
#include "server/device/device_set.h"
#include "server/device/torch_errors.h"
#include "server/device/upload/device_weights.h"
#include "server/device/upload/direct_reader.h"
#include "server/device/upload/portion_ring.h"
#include "server/weights/state_dict.h"
#include "server/weights/weights_digest.h"

namespace sconce {
namespace {

using Way = UploadPlan::Way;

// As where weights are read for the CPU.
constexpr int kMostThreads = 4;
// One is filled while the one before is copied.
constexpr int64_t kPortionsPerThread = 2;
// What is read at a time where the bytes are looked at next: they are in the processor's cache
// then.
constexpr int64_t kHotBytes = int64_t{512} << 10;

class Upload {
 public:
  Upload(const Checkpoint& checkpoint, const UploadPlan& plan,
         absl::Span<const UploadTarget> targets, DirectReads* direct)
      : checkpoint_(checkpoint),
        plan_(plan),
        targets_(targets),
        digests_(checkpoint.tensors().size()) {
    for (const UploadTarget& target : targets) {
      devices_.emplace_back(&checkpoint, &plan, target.stream);
    }
    if (direct != nullptr) {
      direct_.emplace(&checkpoint, &devices_[0], targets[0].stream.device(), direct);
    }
  }

  // What is queued reads and writes what is freed next.
  ~Upload() { static_cast<void>(AwaitDevices()); }

  absl::StatusOr<std::string> Run() {
    if (absl::Status status = Allocate(); !status.ok()) return status;
    // Verifies the files where that was asked for, before several threads find that it is still to
    // be done.
    if (absl::Status status = checkpoint_.ReadTensors({}, {}); !status.ok()) return status;
    if (absl::Status status = DigestWhatStays(); !status.ok()) return status;
    // What a device reads by itself is in no stream's order: whoever had this memory before is to
    // be done with it.
    if (direct_.has_value()) {
      if (absl::Status status = AwaitDevices(); !status.ok()) return status;
    }
    absl::Status moved = RunInParallel(plan_.jobs.size(), threads_, [this](size_t i) {
      absl::Status status = Guarded("host", [&] { return RunJob(plan_.jobs[i]); });
      if (!status.ok()) ring_->Fail(status);
      return status;
    });
    if (!moved.ok()) return moved;
    absl::Status filled = OnEach([](DeviceWeights& device) { device.FillConstants(); });
    if (!filled.ok()) return filled;
    if (absl::Status status = checkpoint_.CheckUnchanged(); !status.ok()) return status;
    if (absl::Status status = AwaitDevices(); !status.ok()) return status;
    for (size_t i = 0; i < devices_.size(); ++i) {
      absl::Status assigned = Guarded(devices_[i].device(), [&] {
        devices_[i].AssignTo(*targets_[i].net);
        return absl::OkStatus();
      });
      if (!assigned.ok()) return assigned;
    }
    return Id();
  }

 private:
  // Until the first error.
  template <typename Body>
  absl::Status OnEach(Body body) {
    for (DeviceWeights& device : devices_) {
      absl::Status status = Guarded(device.device(), [&] {
        body(device);
        return absl::OkStatus();
      });
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // All of them, for better or worse; the first error.
  absl::Status AwaitDevices() {
    absl::Status first;
    for (const DeviceWeights& device : devices_) {
      const absl::Status status = Guarded(device.device(), [&] {
        device.Await();
        return absl::OkStatus();
      });
      if (first.ok()) first = status;
    }
    return first;
  }

  absl::Status Allocate() {
    for (size_t i = 0; i < devices_.size(); ++i) {
      absl::Status status = Guarded(devices_[i].device(), [&] {
        devices_[i].Allocate();
        return absl::OkStatus();
      });
      if (absl::IsResourceExhausted(status)) return NoMemoryOn(targets_[i].stream.device(), status);
      if (!status.ok()) return status;
    }
    int64_t bytes = 0;
    for (const TensorDescriptor& tensor : checkpoint_.tensors()) bytes += tensor.size_bytes();
    // A thread has to be started, which a few megabytes are not worth.
    threads_ = static_cast<int>(
        std::min<int64_t>(std::min(AvailableProcessors(), kMostThreads),
                          1 + bytes / (2 * std::max<int64_t>(plan_.portion_bytes, 1))));
    const int64_t portions = std::min(plan_.portions, threads_ * kPortionsPerThread);
    if (portions == 0) return absl::OkStatus();
    const std::string what = absl::StrCat("page-locked memory for a load, ", portions, " x ",
                                          plan_.portion_bytes, " bytes");
    return Guarded(what, [&] {
      ring_ =
          std::make_unique<PortionRing>(targets_[0].stream.device(), plan_.portion_bytes, portions);
      return absl::OkStatus();
    });
  }

  absl::Status NoMemoryOn(c10::Device device, const absl::Status& status) const {
    const auto memory = MemoryOf(device);
    const std::string free = memory.ok()
                                 ? absl::StrCat(memory->total_bytes - memory->used_bytes, " of ",
                                                memory->total_bytes, " bytes are free")
                                 : std::string("what is free is not known");
    return absl::ResourceExhaustedError(absl::StrCat(
        device.str(), ": no memory for the weights: ", plan_.weights_bytes + plan_.scratch_bytes,
        " bytes are needed, ", free, " (", std::string(status.message()), ")"));
  }

  // Tensors that no job moves.
  absl::Status DigestWhatStays() {
    const std::vector<TensorDescriptor>& tensors = checkpoint_.tensors();
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (plan_.first_of_same_view[i] != i) continue;
      if (tensors[i].sparse.has_value()) {
        const auto digest = SparseDigest(checkpoint_, tensors[i]);
        if (!digest.ok()) return digest.status();
        digests_[i] = *digest;
      } else if (tensors[i].size_bytes() == 0) {
        digests_[i] = TensorDigest(tensors[i]).Finish();
      }
    }
    return absl::OkStatus();
  }

  absl::Status RunJob(const UploadPlan::Job& job) {
    const size_t first = job.tensors[0];
    const bool is_large = checkpoint_.tensors()[first].size_bytes() > plan_.portion_bytes;
    if (is_large) return MoveInPieces(job.way, first);
    absl::StatusOr<PortionRing::Portion*> portion = ring_->Take();
    if (!portion.ok()) return portion.status();
    std::vector<TensorPiece> pieces;
    int64_t at = 0;
    for (const size_t tensor : job.tensors) {
      const int64_t size = checkpoint_.tensors()[tensor].size_bytes();
      pieces.push_back({tensor, 0, at, size});
      at += UploadPlan::Align(size);
    }
    const absl::StatusOr<bool> direct = ReadDirectly(job.way, pieces, **portion);
    if (!direct.ok()) return direct.status();
    if (*direct) {
      for (const TensorPiece& piece : pieces) {
        TensorDigest digest(checkpoint_.tensors()[piece.tensor]);
        digest.Update(BytesOf(piece, **portion));
        digests_[piece.tensor] = digest.Finish();
      }
    } else if (absl::Status read = ReadWhole(pieces, **portion); !read.ok()) {
      return read;
    }
    return Send(job.way, pieces, *portion, *direct);
  }

  static absl::Span<std::byte> BytesOf(const TensorPiece& piece,
                                       const PortionRing::Portion& portion) {
    return {portion.data() + piece.at, static_cast<size_t>(piece.size_bytes)};
  }

  // Whether the first device has read the pieces by itself; they are in the portion, too, then.
  absl::StatusOr<bool> ReadDirectly(Way way, const std::vector<TensorPiece>& pieces,
                                    const PortionRing::Portion& portion) {
    if (way != Way::kAsTheyAre || !direct_.has_value() || !direct_->Read(pieces)) return false;
    const int64_t size = pieces.back().at + pieces.back().size_bytes;
    return Guarded(devices_[0].device(), [&]() -> absl::StatusOr<bool> {
      const c10::Event copied = [&] {
        MutexLock lock(&sending_);
        return devices_[0].CopyBack(pieces, portion.memory.narrow(0, 0, size));
      }();
      copied.synchronize();
      return true;
    });
  }

  absl::Status ReadWhole(const std::vector<TensorPiece>& pieces,
                         const PortionRing::Portion& portion) {
    std::vector<TensorRequest> requests;
    std::vector<TensorDigest> digests;
    for (const TensorPiece& piece : pieces) {
      const TensorDescriptor& tensor = checkpoint_.tensors()[piece.tensor];
      requests.push_back({.tensor = &tensor, .destination = BytesOf(piece, portion)});
      digests.emplace_back(tensor);
    }
    ReadOptions options;
    options.threads = 1;
    options.on_piece = [&](size_t request, absl::Span<const std::byte> bytes) {
      digests[request].Update(bytes);
    };
    if (absl::Status read = checkpoint_.ReadTensors(requests, options); !read.ok()) return read;
    for (size_t i = 0; i < pieces.size(); ++i) digests_[pieces[i].tensor] = digests[i].Finish();
    return absl::OkStatus();
  }

  absl::Status MoveInPieces(Way way, size_t index) {
    const TensorDescriptor& tensor = checkpoint_.tensors()[index];
    const int64_t size = tensor.size_bytes();
    const int64_t unit = plan_.UnitBytes(checkpoint_, index);
    const int64_t most = plan_.portion_bytes / unit * unit;
    TensorDigest digest(tensor);
    for (int64_t done = 0; done < size;) {
      absl::StatusOr<PortionRing::Portion*> portion = ring_->Take();
      if (!portion.ok()) return portion.status();
      const TensorPiece piece = {index, done, 0, std::min(most, size - done)};
      const absl::StatusOr<bool> direct = ReadDirectly(way, {piece}, **portion);
      if (!direct.ok()) return direct.status();
      if (*direct) {
        digest.Update(BytesOf(piece, **portion));
      } else if (absl::Status read = ReadPiece(piece, digest, **portion); !read.ok()) {
        return read;
      }
      if (absl::Status sent = Send(way, {piece}, *portion, *direct); !sent.ok()) return sent;
      done += piece.size_bytes;
    }
    digests_[index] = digest.Finish();
    return absl::OkStatus();
  }

  absl::Status ReadPiece(const TensorPiece& piece, TensorDigest& digest,
                         const PortionRing::Portion& portion) {
    const TensorDescriptor& tensor = checkpoint_.tensors()[piece.tensor];
    // A view that is not contiguous is gathered from all over its storage, the fewer times the
    // better.
    const bool contiguous =
        tensor.storage != kNoStorage && IsContiguous(tensor.shape, tensor.strides);
    const int64_t step = contiguous ? kHotBytes : piece.size_bytes;
    for (int64_t done = 0; done < piece.size_bytes;) {
      const absl::Span<std::byte> bytes(
          portion.data() + done, static_cast<size_t>(std::min(step, piece.size_bytes - done)));
      absl::Status read = checkpoint_.ReadRange(tensor, piece.first_byte + done, bytes);
      if (!read.ok()) return read;
      digest.Update(bytes);
      done += static_cast<int64_t>(bytes.size());
    }
    return absl::OkStatus();
  }

  // Queues what becomes of the portion on every device, the first one left out where it has the
  // pieces already, and gives it back.
  absl::Status Send(Way way, const std::vector<TensorPiece>& pieces, PortionRing::Portion* portion,
                    bool first_has_it) {
    if (way != Way::kNowhere) {
      const int64_t size = pieces.back().at + pieces.back().size_bytes;
      MutexLock lock(&sending_);
      absl::Status sent = OnEach([&](DeviceWeights& device) {
        if (first_has_it && &device == &devices_[0]) return;
        portion->copied.push_back(device.Take(way, pieces, portion->memory.narrow(0, 0, size)));
      });
      if (!sent.ok()) return sent;
    }
    ring_->GiveBack(portion);
    return absl::OkStatus();
  }

  std::string Id() const {
    const size_t prefix = StrippedPrefixOf(checkpoint_).size();
    std::vector<std::pair<std::string, Digest128>> named;
    for (size_t i = 0; i < digests_.size(); ++i) {
      named.emplace_back(checkpoint_.tensors()[i].name.substr(prefix),
                         digests_[plan_.first_of_same_view[i]]);
    }
    return WeightsId(std::move(named));
  }

  const Checkpoint& checkpoint_;
  const UploadPlan& plan_;
  const absl::Span<const UploadTarget> targets_;
  int threads_ = 1;
  Mutex sending_;
  std::deque<DeviceWeights> devices_;   // by target; by one thread at a time: sending_
  std::optional<DirectReader> direct_;  // by the first of them
  std::unique_ptr<PortionRing> ring_;
  std::vector<Digest128> digests_;  // by tensor; each written by one job
};

// `error`, or that a target's device is lost where a call for it fails again.
absl::Status Diagnose(const absl::Status& error, absl::Span<const UploadTarget> targets,
                      DeviceHealth* health) {
  if (!absl::IsInternal(error)) return error;
  for (const UploadTarget& target : targets) {
    const std::string device = target.stream.device().str();
    const absl::Status again = Guarded(device, [&] {
      target.stream.synchronize();
      return absl::OkStatus();
    });
    if (!absl::IsInternal(again)) continue;
    health->ReportLost(device, absl::StrCat("the device is lost: ", std::string(again.message())));
    return absl::UnavailableError(*health->LostBecause(device));
  }
  return error;
}

}  // namespace

absl::StatusOr<std::string> UploadWeights(const Checkpoint& checkpoint, const UploadPlan& plan,
                                          absl::Span<const UploadTarget> targets,
                                          DeviceHealth* health, DirectReads* direct) {
  absl::StatusOr<std::string> id = Guarded("host", [&]() -> absl::StatusOr<std::string> {
    return Upload(checkpoint, plan, targets, direct).Run();
  });
  if (!id.ok()) return Diagnose(id.status(), targets, health);
  return id;
}

}  // namespace sconce
