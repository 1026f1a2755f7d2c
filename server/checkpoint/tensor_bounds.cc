#include "server/checkpoint/tensor_bounds.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/checkpoint/error_context.h"

namespace sconce {
namespace {

std::string List(absl::Span<const int64_t> numbers) {
  return absl::StrCat("[", absl::StrJoin(numbers, ", "), "]");
}

// Types that pack several elements into a byte: PyTorch rounds the last dimension up to whole
// bytes. REQUIRES: no element count above 2^63 (CountElements is OK).
int64_t PackedBytes(absl::Span<const int64_t> shape, int64_t elements, int64_t per_byte) {
  if (shape.empty() || elements == 0) return elements;
  const int64_t last = shape.back();
  return elements / last * (last / per_byte + (last % per_byte != 0 ? 1 : 0));
}

// One past the highest element that the view touches, counted from the storage's start.
absl::StatusOr<int64_t> EndElement(const TensorDescriptor& tensor) {
  int64_t end = tensor.offset;
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    int64_t reach;
    if (__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &reach) ||
        __builtin_add_overflow(end, reach, &end)) {
      return Refused("expected strides within 64 bits, got shape ", List(tensor.shape),
                     " with strides ", List(tensor.strides));
    }
  }
  if (__builtin_add_overflow(end, int64_t{1}, &end)) {
    return Refused("expected an offset within 64 bits, got ", tensor.offset);
  }
  return end;
}

}  // namespace

int64_t TensorDescriptor::num_elements() const {
  const absl::StatusOr<int64_t> count = CountElements(shape);
  return count.ok() ? *count : 0;
}

int64_t TensorDescriptor::size_bytes() const {
  const int64_t per_byte = DTypeElementsPerByte(dtype);
  if (per_byte > 1) return PackedBytes(shape, num_elements(), per_byte);
  return num_elements() * DTypeSize(dtype);
}

absl::StatusOr<int64_t> CountElements(absl::Span<const int64_t> shape) {
  for (const int64_t size : shape) {
    if (size < 0) return Refused("expected sizes of 0 or more, got shape ", List(shape));
  }
  // A zero makes the product zero, however large the others are.
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  int64_t count = 1;
  for (const int64_t size : shape) {
    if (__builtin_mul_overflow(count, size, &count)) {
      return Refused("expected a number of elements within 64 bits, got shape ", List(shape));
    }
  }
  return count;
}

absl::StatusOr<int64_t> CountBytes(int64_t count, DType dtype) {
  int64_t bytes;
  if (__builtin_mul_overflow(count, DTypeSize(dtype), &bytes)) {
    return Refused("expected a number of bytes within 64 bits, got ", count, " elements of ",
                   DTypeSize(dtype), " bytes");
  }
  return bytes;
}

absl::StatusOr<int64_t> CountTensorBytes(absl::Span<const int64_t> shape, DType dtype) {
  const absl::StatusOr<int64_t> elements = CountElements(shape);
  if (!elements.ok()) return elements.status();
  return CountBytes(*elements, dtype);
}

std::vector<int64_t> ContiguousStrides(absl::Span<const int64_t> shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    // As PyTorch counts: a dimension of size 0 leaves the outer strides what they were.
    if (__builtin_mul_overflow(stride, std::max<int64_t>(shape[i], 1), &stride)) stride = 1;
  }
  return strides;
}

bool IsContiguous(absl::Span<const int64_t> shape, absl::Span<const int64_t> strides) {
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return true;
  int64_t expected = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] == 1) continue;
    if (strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

absl::Status CheckTensorBounds(const TensorDescriptor& tensor, int64_t storage_bytes) {
  if (tensor.shape.size() > kMaxTensorRank) {
    return Refused("expected at most ", kMaxTensorRank, " dimensions, got ", tensor.shape.size());
  }
  if (tensor.shape.size() != tensor.strides.size()) {
    return Refused("expected as many strides as sizes, got ", tensor.strides.size(),
                   " strides for shape ", List(tensor.shape));
  }
  for (const int64_t stride : tensor.strides) {
    if (stride < 0) return Refused("expected strides of 0 or more, got ", List(tensor.strides));
  }
  if (tensor.offset < 0) return Refused("expected an offset of 0 or more, got ", tensor.offset);
  const absl::StatusOr<int64_t> elements = CountElements(tensor.shape);
  if (!elements.ok()) return elements.status();
  const absl::StatusOr<int64_t> bytes = CountBytes(*elements, tensor.dtype);
  if (!bytes.ok()) return bytes.status();
  if (*elements == 0) return absl::OkStatus();

  const int64_t per_byte = DTypeElementsPerByte(tensor.dtype);
  if (per_byte > 1) {
    if (tensor.offset != 0 || !IsContiguous(tensor.shape, tensor.strides)) {
      return Refused("expected a contiguous tensor of a type that packs ", per_byte,
                     " elements into a byte, got shape ", List(tensor.shape), " with strides ",
                     List(tensor.strides), " and offset ", tensor.offset);
    }
    const int64_t packed = PackedBytes(tensor.shape, *elements, per_byte);
    if (packed <= storage_bytes) return absl::OkStatus();
    return Refused("expected elements inside the storage's ", storage_bytes, " bytes, got ", packed,
                   " bytes for shape ", List(tensor.shape));
  }
  const absl::StatusOr<int64_t> end = EndElement(tensor);
  if (!end.ok()) return end.status();
  if (*end > storage_bytes / DTypeSize(tensor.dtype)) {
    return Refused("expected elements inside the storage's ", storage_bytes, " bytes, which hold ",
                   storage_bytes / DTypeSize(tensor.dtype), ", got shape ", List(tensor.shape),
                   " with strides ", List(tensor.strides), " and offset ", tensor.offset,
                   ", which end at ", *end);
  }
  if (*bytes > kMaxExpandedBytes && *bytes / kMaxExpansion > storage_bytes) {
    return Refused("expected a view of at most ", kMaxExpansion, " times its storage's ",
                   storage_bytes, " bytes, got shape ", List(tensor.shape), " with strides ",
                   List(tensor.strides), ", which come to ", *bytes, " bytes");
  }
  return absl::OkStatus();
}

}  // namespace sconce
