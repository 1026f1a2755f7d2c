#include "server/device/upload/upload_plan.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/checkpoint/tied_tensors.h"
#include "server/weights/scalar_type.h"

namespace sconce {
namespace {

using Way = UploadPlan::Way;

// Large enough for the disk and the bus; small enough that the first copy begins soon.
constexpr int64_t kPortionBytes = int64_t{8} << 20;

// The tensors in the order in which their bytes lie in the files, so that these are read from front
// to back.
std::vector<size_t> InFileOrder(const Checkpoint& checkpoint) {
  const std::vector<TensorDescriptor>& tensors = checkpoint.tensors();
  const auto position = [&](size_t i) -> std::pair<int32_t, int64_t> {
    const TensorDescriptor& tensor = tensors[i];
    if (tensor.storage < 0 || static_cast<size_t>(tensor.storage) >= checkpoint.storages().size()) {
      return {std::numeric_limits<int32_t>::max(), 0};
    }
    const StorageDescriptor& storage = checkpoint.storages()[static_cast<size_t>(tensor.storage)];
    return {storage.file, storage.file_offset + tensor.offset * DTypeSize(tensor.dtype)};
  };
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return position(a) < position(b); });
  return order;
}

// All elements of a tensor of a fresh network are one, seen through strides of 0.
double FirstElement(at::Tensor tensor) {
  while (tensor.dim() > 0) tensor = tensor.select(0, 0);
  return tensor.item<double>();
}

class Planner {
 public:
  Planner(const Checkpoint& checkpoint, const models::Net& net)
      : checkpoint_(checkpoint), own_(net.State()) {
    plan_.first_of_same_view = FirstOfSameView(checkpoint.tensors());
    plan_.blocks_of_tensor.resize(checkpoint.tensors().size());
  }

  absl::StatusOr<UploadPlan> Plan(const StateFit& fit, const WeightsForm& form,
                                  absl::Span<const size_t> uncast) {
    NameBlocks(fit, form, uncast);
    const std::vector<size_t> order = InFileOrder(checkpoint_);
    for (const size_t tensor : order) {
      for (const size_t block : plan_.blocks_of_tensor[tensor]) {
        if (!Place(plan_.blocks[block])) return TooLarge();
      }
    }
    for (UploadPlan::Block& block : plan_.blocks) {
      if (!block.tensor.has_value() && !Place(block)) return TooLarge();
    }
    Cut(order);
    return std::move(plan_);
  }

 private:
  void NameBlocks(const StateFit& fit, const WeightsForm& form, absl::Span<const size_t> uncast) {
    std::vector<bool> keeps_type(own_.size());
    for (const size_t i : uncast) keeps_type[i] = true;
    std::map<std::tuple<size_t, at::ScalarType, at::MemoryFormat>, size_t> known;
    for (size_t i = 0; i < own_.size(); ++i) {
      const at::Tensor& own = own_[i].tensor;
      UploadPlan::Block block;
      block.type = keeps_type[i] ? own.scalar_type() : form.TypeOf(own);
      block.format = form.FormatOf(own);
      block.size_bytes = own.numel() * static_cast<int64_t>(c10::elementSize(block.type));
      if (!fit.sources[i].has_value()) {
        const bool is_counter = !c10::isFloatingType(own.scalar_type());
        if (!is_counter && own.numel() > 0) block.fill = FirstElement(own);
        plan_.block_of_own.push_back(plan_.blocks.size());
        plan_.blocks.push_back(block);
        continue;
      }
      const size_t tensor = plan_.first_of_same_view[*fit.sources[i]];
      const auto [found, is_new] =
          known.try_emplace({tensor, block.type, block.format}, plan_.blocks.size());
      plan_.block_of_own.push_back(found->second);
      if (!is_new) continue;
      block.tensor = tensor;
      plan_.blocks_of_tensor[tensor].push_back(plan_.blocks.size());
      plan_.blocks.push_back(block);
    }
  }

  bool Place(UploadPlan::Block& block) {
    block.offset = plan_.weights_bytes;
    return !__builtin_add_overflow(plan_.weights_bytes, UploadPlan::Align(block.size_bytes),
                                   &plan_.weights_bytes);
  }

  absl::Status TooLarge() const {
    return absl::InvalidArgumentError(
        absl::StrCat(Printable(checkpoint_.path()),
                     ": the sizes of the tensors add up to more than any memory"));
  }

  void Cut(const std::vector<size_t>& order) {
    int64_t filled = 0;  // of the last job's portion
    for (const size_t i : order) {
      const TensorDescriptor& tensor = checkpoint_.tensors()[i];
      const int64_t size = tensor.size_bytes();
      if (plan_.first_of_same_view[i] != i || tensor.sparse.has_value() || size == 0) continue;
      const Way way = plan_.WayOf(checkpoint_, i);
      const bool joins =
          !plan_.jobs.empty() && plan_.jobs.back().way == way && size <= kPortionBytes - filled;
      if (!joins) {
        plan_.jobs.push_back({way, {}});
        filled = 0;
      }
      plan_.jobs.back().tensors.push_back(i);
      filled = size > kPortionBytes ? kPortionBytes : UploadPlan::Align(filled + size);
      int64_t portion = std::min(filled, kPortionBytes);
      portion = std::max(portion, UploadPlan::Align(plan_.UnitBytes(checkpoint_, i)));
      plan_.portion_bytes = std::max(plan_.portion_bytes, portion);
      if (way == Way::kCast) plan_.scratch_bytes = std::max(plan_.scratch_bytes, portion);
    }
    for (const UploadPlan::Job& job : plan_.jobs) {
      int64_t bytes = 0;
      for (const size_t i : job.tensors) bytes += checkpoint_.tensors()[i].size_bytes();
      plan_.portions += 1 + bytes / kPortionBytes;
    }
  }

  const Checkpoint& checkpoint_;
  const std::vector<models::NamedTensor> own_;
  UploadPlan plan_;
};

}  // namespace

bool UploadPlan::IsAsInFile(const Checkpoint& checkpoint, const Block& block) const {
  return block.format == at::MemoryFormat::Contiguous &&
         block.type == ToScalarType(checkpoint.tensors()[*block.tensor].dtype);
}

UploadPlan::Way UploadPlan::WayOf(const Checkpoint& checkpoint, size_t tensor) const {
  const std::vector<size_t>& own = blocks_of_tensor[tensor];
  if (own.empty()) return Way::kNowhere;
  return own.size() == 1 && IsAsInFile(checkpoint, blocks[own[0]]) ? Way::kAsTheyAre : Way::kCast;
}

bool UploadPlan::IsCutByRows(size_t tensor) const {
  const std::vector<size_t>& own = blocks_of_tensor[tensor];
  return std::any_of(own.begin(), own.end(), [this](size_t block) {
    return blocks[block].format == at::MemoryFormat::ChannelsLast;
  });
}

int64_t UploadPlan::UnitBytes(const Checkpoint& checkpoint, size_t tensor) const {
  const TensorDescriptor& described = checkpoint.tensors()[tensor];
  return IsCutByRows(tensor) ? described.size_bytes() / described.shape[0]
                             : DTypeSize(described.dtype);
}

absl::StatusOr<UploadPlan> PlanUpload(const Checkpoint& checkpoint, const models::Net& net,
                                      const StateFit& fit, const WeightsForm& form,
                                      absl::Span<const size_t> uncast) {
  return Planner(checkpoint, net).Plan(fit, form, uncast);
}

}  // namespace sconce
