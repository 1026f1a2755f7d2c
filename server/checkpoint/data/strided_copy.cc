#include "server/checkpoint/data/strided_copy.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "absl/status/statusor.h"
#include "server/checkpoint/data/transpose.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

constexpr int64_t kWindowBytes = kStagingBytes / 2;
// Gaps up to this size are read in vain rather than jumped over with one more read.
constexpr int64_t kBridgedBytes = 4096;
// From this length on, a contiguous run is worth a read of its own, straight to its place.
constexpr int64_t kDirectRunBytes = 64 * 1024;
// A block is at least as wide as this in the dimension that is contiguous in memory.
constexpr int64_t kBlockWidth = 64;

// One dimension of the copy; strides in bytes.
struct Loop {
  int64_t count;
  int64_t source_stride;
  int64_t destination_stride;
};

// The loops from the largest source stride to the smallest, so that the storage is passed over from
// front to back, with loops that continue one another joined. Empty for a single element.
std::vector<Loop> PlanLoops(const StridedBox& box) {
  std::vector<Loop> loops;
  for (size_t i = 0; i < box.shape.size(); ++i) {
    if (box.shape[i] == 1) continue;
    loops.push_back({box.shape[i], box.source_strides[i] * box.element_bytes,
                     box.destination_strides[i] * box.element_bytes});
  }
  std::stable_sort(loops.begin(), loops.end(),
                   [](const Loop& a, const Loop& b) { return a.source_stride > b.source_stride; });
  std::vector<Loop> joined;
  for (const Loop& inner : loops) {
    if (!joined.empty()) {
      Loop& outer = joined.back();
      if (outer.source_stride == inner.source_stride * inner.count &&
          outer.destination_stride == inner.destination_stride * inner.count) {
        outer = {outer.count * inner.count, inner.source_stride, inner.destination_stride};
        continue;
      }
    }
    joined.push_back(inner);
  }
  return joined;
}

// Steps through nested loops, the last one fastest, each in strides of `step` of its indices.
class Odometer {
 public:
  struct Wheel {
    Loop loop;
    int64_t step = 1;
    int64_t index = 0;
  };

  void Add(const Loop& loop, int64_t step = 1) { wheels_.push_back({loop, step}); }

  // Byte offsets of the present indices.
  int64_t source() const { return source_; }
  int64_t destination() const { return destination_; }

  // How many indices of wheel `i` the present step stands for.
  int64_t Width(size_t i) const {
    const Wheel& wheel = wheels_[i];
    return std::min(wheel.step, wheel.loop.count - wheel.index);
  }

  // False after the last position.
  bool Next() {
    for (size_t i = wheels_.size(); i-- > 0;) {
      Wheel& wheel = wheels_[i];
      const int64_t moved = wheel.step < wheel.loop.count - wheel.index ? wheel.step : -wheel.index;
      wheel.index += moved;
      source_ += moved * wheel.loop.source_stride;
      destination_ += moved * wheel.loop.destination_stride;
      if (moved > 0) return true;
    }
    return false;
  }

 private:
  std::vector<Wheel> wheels_;
  int64_t source_ = 0;
  int64_t destination_ = 0;
};

// A piece of the storage in memory. It grows while reads follow one another, and starts small again
// after a jump, so that what is read in vain stays a small multiple of what is asked for.
class Window {
 public:
  // `first`, `end`: the first byte of the storage that will be asked for, and one past the last.
  Window(const ReadStorage& read, int64_t first, int64_t end)
      : read_(read),
        end_(end),
        bytes_(new std::byte[static_cast<size_t>(std::min(kWindowBytes, end - first))]) {}

  // The bytes from `offset` on: as many as are in the window, at least `least` of them.
  // REQUIRES: offset + least <= end, least <= kWindowBytes.
  absl::StatusOr<absl::Span<const std::byte>> At(int64_t offset, int64_t least) {
    if (offset < begin_ || offset + least > begin_ + size_) {
      const bool follows = offset >= begin_ && offset <= begin_ + 2 * size_;
      const int64_t fill =
          follows ? std::clamp(2 * size_, kBridgedBytes, kWindowBytes) : kBridgedBytes;
      const int64_t size = std::min(std::max(fill, least), end_ - offset);
      if (absl::Status read = read_(offset, {bytes_.get(), static_cast<size_t>(size)});
          !read.ok()) {
        return read;
      }
      begin_ = offset;
      size_ = size;
    }
    return absl::MakeConstSpan(bytes_.get() + (offset - begin_),
                               static_cast<size_t>(begin_ + size_ - offset));
  }

 private:
  const ReadStorage& read_;
  const int64_t end_;
  const std::unique_ptr<std::byte[]> bytes_;
  int64_t begin_ = 0;
  int64_t size_ = 0;
};

// One element or one run of them at a time, in the storage's order.
class RunCopy {
 public:
  RunCopy(const std::vector<Loop>& loops, int64_t element, int64_t source, const ReadStorage& read)
      : inner_(loops.back()),
        element_(element),
        read_(read),
        window_(read, source, End(loops, source)) {}

  // The innermost loop, whose first element is at `source` and goes to `destination`.
  absl::Status Copy(int64_t source, std::byte* destination) {
    const bool is_run = inner_.source_stride == element_ && inner_.destination_stride == element_;
    if (is_run && inner_.count * element_ >= kDirectRunBytes) {
      return read_(source, {destination, static_cast<size_t>(inner_.count * element_)});
    }
    for (int64_t done = 0; done < inner_.count;) {
      const int64_t left = inner_.count - done;
      // All that is left, if the window can hold it and it is not mostly gaps.
      const int64_t whole = (left - 1) * inner_.source_stride + element_;
      const bool dense = inner_.source_stride <= kBridgedBytes;
      const auto bytes = window_.At(source + done * inner_.source_stride,
                                    dense && whole <= kWindowBytes ? whole : element_);
      if (!bytes.ok()) return bytes.status();
      const auto available = static_cast<int64_t>(bytes->size());
      int64_t count = left;
      if (inner_.source_stride > 0) {
        count = std::min(left, (available - element_) / inner_.source_stride + 1);
      }
      std::byte* const target = destination + done * inner_.destination_stride;
      if (is_run) {
        std::memcpy(target, bytes->data(), static_cast<size_t>(count * element_));
      } else {
        Transpose({.element_bytes = element_,
                   .rows = count,
                   .columns = 1,
                   .source = bytes->data(),
                   .source_row_stride = inner_.source_stride,
                   .destination = target,
                   .destination_row_stride = inner_.destination_stride});
      }
      done += count;
    }
    return absl::OkStatus();
  }

 private:
  int64_t End(const std::vector<Loop>& loops, int64_t source) const {
    int64_t end = source + element_;
    for (const Loop& loop : loops) end += (loop.count - 1) * loop.source_stride;
    return end;
  }

  const Loop inner_;
  const int64_t element_;
  const ReadStorage& read_;
  Window window_;
};

absl::Status CopyRuns(const std::vector<Loop>& loops, int64_t element, int64_t source,
                      const ReadStorage& read, std::byte* destination) {
  RunCopy runs(loops, element, source, read);
  Odometer outer;
  for (size_t i = 0; i + 1 < loops.size(); ++i) outer.Add(loops[i]);
  do {
    absl::Status copied = runs.Copy(source + outer.source(), destination + outer.destination());
    if (!copied.ok()) return copied;
  } while (outer.Next());
  return absl::OkStatus();
}

// How a copy that reorders dimensions is cut into blocks. A block is `width` indices of the loop
// `across` (the one that is contiguous in memory), and for each of them a run of the storage: all
// of the loops after `partial`, and `partial_count` indices of that one.
struct BlockPlan {
  size_t across;
  int64_t width;
  size_t partial;
  int64_t partial_count;
  int64_t run_bytes;
  int64_t pitch;     // from run to run in the staging buffer
  bool is_one_read;  // the runs are so close to each other that their gaps are read too
};

BlockPlan PlanBlocks(const std::vector<Loop>& loops, size_t across, int64_t element) {
  const Loop& wide = loops[across];
  const int64_t most = kStagingBytes / std::min(wide.count, kBlockWidth);
  BlockPlan plan{.across = across,
                 .width = 1,
                 .partial = loops.size() - 1,
                 .partial_count = 1,
                 .run_bytes = element,
                 .pitch = 0,
                 .is_one_read = false};
  for (size_t i = loops.size() - 1; i > across; --i) {
    const Loop& loop = loops[i];
    int64_t count = loop.count;
    if (loop.source_stride > plan.run_bytes + kBridgedBytes) {
      count = 1;
    } else if (loop.source_stride > 0) {
      count = std::min(count, (most - plan.run_bytes) / loop.source_stride + 1);
    }
    plan.partial = i;
    plan.partial_count = count;
    plan.run_bytes += (count - 1) * loop.source_stride;
    if (count < loop.count) break;
  }
  plan.is_one_read = wide.source_stride <= plan.run_bytes + kBridgedBytes;
  if (plan.is_one_read) {
    plan.pitch = wide.source_stride;
    plan.width = wide.count;
    if (plan.pitch > 0) {
      plan.width = std::min(plan.width, (kStagingBytes - plan.run_bytes) / plan.pitch + 1);
    }
  } else {
    plan.pitch = (plan.run_bytes + 63) / 64 * 64;
    plan.width = std::clamp<int64_t>(kStagingBytes / plan.pitch, 1, wide.count);
  }
  return plan;
}

// Reads the `width` runs of a block, the first of which begins at `source`.
absl::Status ReadOneBlock(const BlockPlan& plan, const Loop& wide, int64_t width, int64_t run_bytes,
                          int64_t source, const ReadStorage& read, std::byte* staging) {
  if (plan.is_one_read) {
    return read(source, {staging, static_cast<size_t>((width - 1) * plan.pitch + run_bytes)});
  }
  for (int64_t i = 0; i < width; ++i) {
    absl::Status run = read(source + i * wide.source_stride,
                            {staging + i * plan.pitch, static_cast<size_t>(run_bytes)});
    if (!run.ok()) return run;
  }
  return absl::OkStatus();
}

absl::Status CopyBlocks(const std::vector<Loop>& loops, size_t across, int64_t element,
                        int64_t source, const ReadStorage& read, std::byte* destination) {
  const BlockPlan plan = PlanBlocks(loops, across, element);
  const Loop& wide = loops[across];
  const Loop& inner = loops.back();
  const std::unique_ptr<std::byte[]> staging(
      new std::byte[static_cast<size_t>((plan.width - 1) * plan.pitch + plan.run_bytes)]);
  Odometer blocks;
  for (size_t i = 0; i <= plan.partial; ++i) {
    blocks.Add(loops[i], i == across ? plan.width : i == plan.partial ? plan.partial_count : 1);
  }
  do {
    const int64_t width = blocks.Width(across);
    const int64_t partial_count = blocks.Width(plan.partial);
    const int64_t run_bytes =
        plan.run_bytes - (plan.partial_count - partial_count) * loops[plan.partial].source_stride;
    absl::Status block =
        ReadOneBlock(plan, wide, width, run_bytes, source + blocks.source(), read, staging.get());
    if (!block.ok()) return block;
    const bool inner_is_partial = plan.partial == loops.size() - 1;
    Odometer planes;
    for (size_t i = plan.partial; i + 1 < loops.size(); ++i) {
      Loop loop = loops[i];
      if (i == plan.partial) loop.count = partial_count;
      planes.Add(loop);
    }
    do {
      Transpose({.element_bytes = element,
                 .rows = inner_is_partial ? partial_count : inner.count,
                 .columns = width,
                 .source = staging.get() + planes.source(),
                 .source_row_stride = inner.source_stride,
                 .source_column_stride = plan.pitch,
                 .destination = destination + blocks.destination() + planes.destination(),
                 .destination_row_stride = inner.destination_stride,
                 .destination_column_stride = wide.destination_stride});
    } while (planes.Next());
  } while (blocks.Next());
  return absl::OkStatus();
}

}  // namespace

absl::Status CopyBox(const StridedBox& box, const ReadStorage& read,
                     absl::Span<std::byte> destination) {
  if (std::find(box.shape.begin(), box.shape.end(), 0) != box.shape.end()) return absl::OkStatus();
  const int64_t element = box.element_bytes;
  const int64_t source = box.source_offset * element;
  std::byte* const target = destination.data() + box.destination_offset * element;
  const std::vector<Loop> loops = PlanLoops(box);
  if (loops.empty()) return read(source, {target, static_cast<size_t>(element)});
  const Loop& inner = loops.back();
  if (loops.size() == 1 && inner.source_stride == element && inner.destination_stride == element) {
    return read(source, {target, static_cast<size_t>(inner.count * element)});
  }
  const auto across = std::min_element(
      loops.rbegin(), loops.rend(),
      [](const Loop& a, const Loop& b) { return a.destination_stride < b.destination_stride; });
  const auto at = static_cast<size_t>(loops.rend() - across) - 1;
  if (at == loops.size() - 1 || inner.source_stride > kBridgedBytes) {
    return CopyRuns(loops, element, source, read, target);
  }
  return CopyBlocks(loops, at, element, source, read, target);
}

std::vector<TensorBox> BoxesOfRange(absl::Span<const int64_t> shape, int64_t first, int64_t count) {
  const size_t rank = shape.size();
  const std::vector<int64_t> strides = ContiguousStrides(shape);
  std::vector<TensorBox> boxes;
  for (const int64_t end = first + count; first < end;) {
    // The outermost dimension of which at least one whole index begins here and fits.
    size_t level = 0;
    while (level < rank && (first % strides[level] != 0 || end - first < strides[level])) ++level;
    TensorBox box{.position = std::vector<int64_t>(rank), .shape = std::vector<int64_t>(rank, 1)};
    for (size_t i = 0; i < rank; ++i) box.position[i] = first / strides[i] % shape[i];
    int64_t elements = 1;
    if (level < rank) {
      box.shape[level] =
          std::min((end - first) / strides[level], shape[level] - box.position[level]);
      for (size_t i = level + 1; i < rank; ++i) box.shape[i] = shape[i];
      elements = box.shape[level] * strides[level];
    }
    first += elements;
    boxes.push_back(std::move(box));
  }
  return boxes;
}

absl::Status CopyRange(const TensorDescriptor& tensor, int64_t offset_bytes,
                       const ReadStorage& read, absl::Span<std::byte> destination) {
  if (destination.empty()) return absl::OkStatus();
  const int64_t element = DTypeSize(tensor.dtype);
  // Types that pack several elements into a byte are always contiguous.
  if (IsContiguous(tensor.shape, tensor.strides)) {
    return read(tensor.offset * element + offset_bytes, destination);
  }
  const auto size = static_cast<int64_t>(destination.size());
  int64_t done = 0;
  for (TensorBox& part : BoxesOfRange(tensor.shape, offset_bytes / element, size / element)) {
    StridedBox box{.element_bytes = element,
                   .shape = std::move(part.shape),
                   .source_offset = tensor.offset,
                   .source_strides = tensor.strides,
                   .destination_offset = done,
                   .destination_strides = {}};
    for (size_t i = 0; i < part.position.size(); ++i) {
      box.source_offset += part.position[i] * tensor.strides[i];
    }
    box.destination_strides = ContiguousStrides(box.shape);
    int64_t elements = 1;
    for (const int64_t count : box.shape) elements *= count;
    done += elements;
    if (absl::Status copied = CopyBox(box, read, destination); !copied.ok()) return copied;
  }
  return absl::OkStatus();
}

}  // namespace sconce
