#include "server/device/upload/weights_pass.h"

#include <algorithm>
#include <utility>

#include "server/base/dtype.h"
#include "server/base/parallel.h"
#include "server/checkpoint/tensor_bounds.h"
#include "server/weights/scalar_type.h"
#include "server/weights/state_dict.h"
#include "server/weights/weights_digest.h"

namespace sconce {
namespace {

using Way = UploadPlan::Way;

// More only take the memory's bandwidth from one another.
constexpr int kMostThreads = 4;
// A thread has to be started, which less than that is not worth.
constexpr int64_t kBytesPerThread = int64_t{16} << 20;
// What is read at a time where the bytes are looked at next: they are in the processor's cache
// then.
constexpr int64_t kHotBytes = int64_t{512} << 10;

}  // namespace

WeightsPass::WeightsPass(const Checkpoint* checkpoint, const UploadPlan* plan,
                         const WeightsOptions* options, absl::Span<const WeightsTarget> targets)
    : checkpoint_(*checkpoint),
      plan_(*plan),
      options_(*options),
      jobs_(plan->jobs),
      portion_bytes_(plan->portion_bytes),
      portions_(plan->portions),
      ids_(checkpoint->tensors().size()),
      contents_(checkpoint->tensors().size()) {
  int64_t bytes = 0;
  for (const TensorDescriptor& tensor : checkpoint_.tensors()) bytes += tensor.size_bytes();
  threads_ = static_cast<int>(std::min<int64_t>(std::min(AvailableProcessors(), kMostThreads),
                                                1 + bytes / kBytesPerThread));
  for (const WeightsTarget& target : targets) {
    if (!target.device.is_cpu()) device_ = target.device;
  }
  if (device_.is_cpu()) CutForTheCache();
}

void WeightsPass::CutForTheCache() {
  portion_bytes_ = std::min(portion_bytes_, kHotBytes);
  std::vector<UploadPlan::Job> jobs;
  int64_t filled = 0;  // of the last job's portion
  for (const UploadPlan::Job& job : plan_.jobs) {
    for (const size_t tensor : job.tensors) {
      const int64_t size = UploadPlan::Align(checkpoint_.tensors()[tensor].size_bytes());
      const int64_t unit = UploadPlan::Align(plan_.UnitBytes(checkpoint_, tensor));
      const bool joins =
          !jobs.empty() && jobs.back().way == job.way && size <= portion_bytes_ - filled;
      if (!joins) {
        jobs.push_back({job.way, {}});
        filled = 0;
      }
      jobs.back().tensors.push_back(tensor);
      filled += size;
      portion_bytes_ = std::max(portion_bytes_, unit);
    }
  }
  jobs_ = std::move(jobs);
  portions_ = static_cast<int64_t>(jobs_.size());
}

bool WeightsPass::IsLarge(size_t tensor) const {
  return checkpoint_.tensors()[tensor].size_bytes() > portion_bytes_;
}

int64_t WeightsPass::PieceBytes(size_t tensor) const {
  const int64_t unit = plan_.UnitBytes(checkpoint_, tensor);
  return portion_bytes_ / unit * unit;
}

absl::Status WeightsPass::Begin() {
  // Before several threads find that it is still to be done.
  if (absl::Status status = checkpoint_.ReadTensors({}, {}); !status.ok()) return status;
  const std::vector<TensorDescriptor>& tensors = checkpoint_.tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (plan_.first_of_same_view[i] != i) continue;
    if (tensors[i].sparse.has_value()) {
      const auto digest = SparseDigest(checkpoint_, tensors[i]);
      if (!digest.ok()) return digest.status();
      ids_[i] = *digest;
    } else if (tensors[i].size_bytes() == 0) {
      ids_[i] = TensorDigest(tensors[i]).Finish();
    }
  }
  return absl::OkStatus();
}

PassingTensor WeightsPass::Start(size_t tensor) const {
  std::vector<DType> finite_as;
  const std::vector<size_t>& blocks = plan_.blocks_of_tensor[tensor];
  for (const size_t block : blocks) {
    const std::optional<DType> as = FromScalarType(plan_.blocks[block].type);
    if (!options_.allow_non_finite && as.has_value()) finite_as.push_back(*as);
  }
  const DigestKey* const key = blocks.empty() ? nullptr : &options_.pool->key();
  return PassingTensor(&checkpoint_.tensors()[tensor], key, std::move(finite_as));
}

absl::Status WeightsPass::ReadWhole(absl::Span<const Whole> tensors) const {
  std::vector<TensorRequest> requests;
  for (const Whole& whole : tensors) {
    requests.push_back(
        {.tensor = &checkpoint_.tensors()[whole.tensor], .destination = whole.destination});
  }
  ReadOptions options;
  options.threads = 1;
  options.on_piece = [&](size_t request, absl::Span<const std::byte> bytes) {
    tensors[request].passing->Update(bytes);
  };
  return checkpoint_.ReadTensors(requests, options);
}

absl::Status WeightsPass::ReadPiece(size_t tensor, int64_t first_byte,
                                    absl::Span<std::byte> destination,
                                    PassingTensor& passing) const {
  const TensorDescriptor& described = checkpoint_.tensors()[tensor];
  // A view that is not contiguous is gathered from all over its storage, the fewer times the
  // better.
  const bool contiguous =
      described.storage != kNoStorage && IsContiguous(described.shape, described.strides);
  const size_t step = contiguous ? static_cast<size_t>(kHotBytes) : destination.size();
  for (size_t done = 0; done < destination.size();) {
    const absl::Span<std::byte> bytes = destination.subspan(done, step);
    absl::Status read =
        checkpoint_.ReadRange(described, first_byte + static_cast<int64_t>(done), bytes);
    if (!read.ok()) return read;
    passing.Update(bytes);
    done += bytes.size();
  }
  return absl::OkStatus();
}

absl::Status WeightsPass::End(size_t tensor, const PassingTensor& passing) {
  ids_[tensor] = passing.IdDigest();
  contents_[tensor] = passing.chunks();
  return passing.Finite();
}

std::string WeightsPass::WeightsIdOfAll() const {
  const size_t prefix = StrippedPrefixOf(checkpoint_).size();
  std::vector<std::pair<std::string, Digest128>> named;
  for (size_t i = 0; i < ids_.size(); ++i) {
    named.emplace_back(checkpoint_.tensors()[i].name.substr(prefix),
                       ids_[plan_.first_of_same_view[i]]);
  }
  return WeightsId(std::move(named));
}

TensorForm WeightsPass::FormOf(const UploadPlan::Block& block, c10::Device device) const {
  const TensorDescriptor& tensor = checkpoint_.tensors()[*block.tensor];
  return {device, tensor.dtype, tensor.shape, block.type, block.format};
}

}  // namespace sconce
