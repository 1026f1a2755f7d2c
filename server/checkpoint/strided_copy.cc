#include "server/checkpoint/strided_copy.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "server/checkpoint/little_endian.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

constexpr int64_t kWindowBytes = int64_t{1} << 20;
constexpr int64_t kSmallestFillBytes = 4096;
// From this length on, a contiguous run is worth a read of its own, straight to its place.
constexpr int64_t kDirectRunBytes = 64 * 1024;

// One dimension of the copy; strides in bytes.
struct Loop {
  int64_t count;
  int64_t source_stride;
  int64_t destination_stride;
};

// The loops from the largest source stride to the smallest, so that the storage is passed over from
// front to back, with loops that continue one another joined. Empty for a single element.
std::vector<Loop> PlanLoops(const TensorDescriptor& tensor) {
  const int64_t element = DTypeSize(tensor.dtype);
  const std::vector<int64_t> destination_strides = ContiguousStrides(tensor.shape);
  std::vector<Loop> loops;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    if (tensor.shape[i] == 1) continue;
    loops.push_back(
        {tensor.shape[i], tensor.strides[i] * element, destination_strides[i] * element});
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

// A piece of the storage in memory. It grows while reads follow one another, and starts small again
// after a jump, so that what is read in vain stays a small multiple of what is asked for.
class Window {
 public:
  // `end`: one past the last byte of the storage that will be asked for.
  Window(const ReadStorage& read, int64_t end)
      : read_(read), end_(end), bytes_(new std::byte[kWindowBytes]) {}

  // The bytes from `offset` on: as many as are in the window, at least `least` of them.
  // REQUIRES: offset + least <= end, least <= kWindowBytes.
  absl::StatusOr<absl::Span<const std::byte>> At(int64_t offset, int64_t least) {
    if (offset < begin_ || offset + least > begin_ + size_) {
      const bool follows = offset >= begin_ && offset <= begin_ + 2 * size_;
      const int64_t fill =
          follows ? std::clamp(2 * size_, kSmallestFillBytes, kWindowBytes) : kSmallestFillBytes;
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

template <size_t kSize>
void CopyElements(const std::byte* source, const Loop& loop, int64_t count,
                  std::byte* destination) {
  for (int64_t i = 0; i < count; ++i) {
    std::memcpy(destination + i * loop.destination_stride, source + i * loop.source_stride, kSize);
  }
}

void CopyElements(int64_t element, const std::byte* source, const Loop& loop, int64_t count,
                  std::byte* destination) {
  switch (element) {
    case 1:
      return CopyElements<1>(source, loop, count, destination);
    case 2:
      return CopyElements<2>(source, loop, count, destination);
    case 4:
      return CopyElements<4>(source, loop, count, destination);
    case 8:
      return CopyElements<8>(source, loop, count, destination);
    default:
      return CopyElements<16>(source, loop, count, destination);
  }
}

// Copies the innermost loop, whose first element is at `source` in the storage and goes to
// `destination`.
absl::Status CopyInnermost(const Loop& loop, int64_t element, int64_t source, Window& window,
                           const ReadStorage& read, std::byte* destination) {
  const bool is_run = loop.source_stride == element && loop.destination_stride == element;
  if (is_run && loop.count * element >= kDirectRunBytes) {
    return read(source, {destination, static_cast<size_t>(loop.count * element)});
  }
  for (int64_t done = 0; done < loop.count;) {
    const int64_t left = loop.count - done;
    // All that is left, if the window can hold it.
    const int64_t whole = (left - 1) * loop.source_stride + element;
    const auto bytes =
        window.At(source + done * loop.source_stride, whole <= kWindowBytes ? whole : element);
    if (!bytes.ok()) return bytes.status();
    const auto available = static_cast<int64_t>(bytes->size());
    int64_t count = left;
    if (loop.source_stride > 0) {
      count = std::min(left, (available - element) / loop.source_stride + 1);
    }
    std::byte* const target = destination + done * loop.destination_stride;
    if (is_run) {
      std::memcpy(target, bytes->data(), static_cast<size_t>(count * element));
    } else {
      CopyElements(element, bytes->data(), loop, count, target);
    }
    done += count;
  }
  return absl::OkStatus();
}

// Flips the sign of every `step`-th number of the type that `Bits` holds, from `first` on.
template <typename Bits>
void FlipSigns(absl::Span<std::byte> numbers, size_t first, size_t step) {
  constexpr Bits kSign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
  for (size_t at = first * sizeof(Bits); at < numbers.size(); at += step * sizeof(Bits)) {
    const Bits flipped = LoadLittleEndian<Bits>(numbers.data() + at) ^ kSign;
    std::memcpy(numbers.data() + at, &flipped, sizeof(Bits));
  }
}

void FlipSigns(int64_t number_size, absl::Span<std::byte> numbers, size_t first, size_t step) {
  switch (number_size) {
    case 1:
      return FlipSigns<uint8_t>(numbers, first, step);
    case 2:
      return FlipSigns<uint16_t>(numbers, first, step);
    case 4:
      return FlipSigns<uint32_t>(numbers, first, step);
    default:
      return FlipSigns<uint64_t>(numbers, first, step);
  }
}

template <typename Int>
void NegateIntegers(absl::Span<std::byte> numbers) {
  using Bits = std::make_unsigned_t<Int>;
  for (size_t at = 0; at < numbers.size(); at += sizeof(Int)) {
    const Bits negated = static_cast<Bits>(Bits{0} - LoadLittleEndian<Bits>(numbers.data() + at));
    std::memcpy(numbers.data() + at, &negated, sizeof(Bits));
  }
}

absl::Status Negate(DType dtype, absl::Span<std::byte> numbers) {
  switch (dtype) {
    case DType::kFloat16:
    case DType::kBFloat16:
    case DType::kFloat32:
    case DType::kFloat64:
      FlipSigns(DTypeSize(dtype), numbers, 0, 1);
      return absl::OkStatus();
    case DType::kComplex32:
    case DType::kComplex64:
    case DType::kComplex128:
      FlipSigns(DTypeSize(dtype) / 2, numbers, 0, 1);
      return absl::OkStatus();
    case DType::kInt8:
      NegateIntegers<int8_t>(numbers);
      return absl::OkStatus();
    case DType::kInt16:
      NegateIntegers<int16_t>(numbers);
      return absl::OkStatus();
    case DType::kInt32:
      NegateIntegers<int32_t>(numbers);
      return absl::OkStatus();
    case DType::kInt64:
      NegateIntegers<int64_t>(numbers);
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("expected the negative bit on a signed or complex tensor, got one of type ",
                       std::string(DTypeName(dtype))));
  }
}

}  // namespace

absl::Status CopyStrided(const TensorDescriptor& tensor, const ReadStorage& read,
                         absl::Span<std::byte> destination) {
  if (destination.empty()) return absl::OkStatus();
  const int64_t element = DTypeSize(tensor.dtype);
  const int64_t start = tensor.offset * element;
  if (IsContiguous(tensor.shape, tensor.strides)) return read(start, destination);

  std::vector<Loop> loops = PlanLoops(tensor);
  const Loop innermost = loops.back();
  loops.pop_back();
  int64_t end = start + element + (innermost.count - 1) * innermost.source_stride;
  for (const Loop& loop : loops) end += (loop.count - 1) * loop.source_stride;

  Window window(read, end);
  std::vector<int64_t> index(loops.size(), 0);
  int64_t source = start;
  int64_t target = 0;
  while (true) {
    absl::Status copied =
        CopyInnermost(innermost, element, source, window, read, destination.data() + target);
    if (!copied.ok()) return copied;
    size_t level = loops.size();
    while (level > 0) {
      const Loop& loop = loops[level - 1];
      source += loop.source_stride;
      target += loop.destination_stride;
      if (++index[level - 1] < loop.count) break;
      index[level - 1] = 0;
      source -= loop.count * loop.source_stride;
      target -= loop.count * loop.destination_stride;
      --level;
    }
    if (level == 0) return absl::OkStatus();
  }
}

absl::Status ResolveBits(const TensorDescriptor& tensor, absl::Span<std::byte> contiguous) {
  if (tensor.negative) {
    if (absl::Status negated = Negate(tensor.dtype, contiguous); !negated.ok()) return negated;
  }
  // Conjugation of real numbers changes nothing.
  if (tensor.conjugate && IsComplex(tensor.dtype)) {
    FlipSigns(DTypeSize(tensor.dtype) / 2, contiguous, 1, 2);
  }
  return absl::OkStatus();
}

}  // namespace sconce
