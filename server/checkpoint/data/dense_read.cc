#include "server/checkpoint/data/dense_read.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/checkpoint/data/densify.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

std::string Where(const Checkpoint& checkpoint, const TensorDescriptor& tensor) {
  return absl::StrCat(Printable(checkpoint.path()), ": tensor '", Printable(tensor.name), "'");
}

// The values of a one-dimensional tensor as T; an error for types other than float64, float32 and
// the integers of 64 and 32 bits.
template <typename T>
absl::StatusOr<std::vector<T>> ReadNumbers(const Checkpoint& checkpoint,
                                           const TensorDescriptor& tensor) {
  std::vector<std::byte> bytes(static_cast<size_t>(tensor.size_bytes()));
  absl::Status read = checkpoint.ReadInto(tensor, absl::MakeSpan(bytes));
  if (!read.ok()) return read;
  std::vector<T> numbers(static_cast<size_t>(tensor.num_elements()));
  const auto convert = [&]<typename From>(From) {
    for (size_t i = 0; i < numbers.size(); ++i) {
      From value;
      std::memcpy(&value, bytes.data() + i * sizeof(From), sizeof(From));
      numbers[i] = static_cast<T>(value);
    }
  };
  switch (tensor.dtype) {
    case DType::kFloat64:
      convert(double{});
      return numbers;
    case DType::kFloat32:
      convert(float{});
      return numbers;
    case DType::kInt64:
      convert(int64_t{});
      return numbers;
    case DType::kInt32:
      convert(int32_t{});
      return numbers;
    default:
      return Refused("expected float64, float32, int64 or int32, got ",
                     std::string(DTypeName(tensor.dtype)));
  }
}

// The stored integer number `i`; several may share a byte, the lowest bits first.
int32_t StoredInteger(DType dtype, const std::byte* integers, int64_t i) {
  switch (dtype) {
    case DType::kQInt8:
      return static_cast<int8_t>(integers[i]);
    case DType::kQInt32: {
      int32_t value;
      std::memcpy(&value, integers + i * 4, sizeof(value));
      return value;
    }
    case DType::kQUInt4x2:
      return static_cast<int32_t>(integers[i / 2] >> (i % 2 * 4) & std::byte{0xF});
    case DType::kQUInt2x4:
      return static_cast<int32_t>(integers[i / 4] >> (i % 4 * 2) & std::byte{0x3});
    default:
      return static_cast<uint8_t>(integers[i]);
  }
}

// Calls to_real(integer, index) for each element. `integers` may be the end of `destination`: no
// element is written over one that is still to be read, since integers take no more bytes than
// floats.
template <typename ToReal>
void Convert(DType dtype, const std::byte* integers, absl::Span<std::byte> destination,
             const ToReal& to_real) {
  const auto count = static_cast<int64_t>(destination.size() / sizeof(float));
  for (int64_t i = 0; i < count; ++i) {
    const float real = to_real(StoredInteger(dtype, integers, i), i);
    std::memcpy(destination.data() + static_cast<size_t>(i) * sizeof(float), &real, sizeof(real));
  }
}

// The arithmetic is PyTorch's, down to the types of what lies between: they decide the last bit.
absl::Status Dequantise(const Checkpoint& checkpoint, const TensorDescriptor& tensor,
                        absl::Span<std::byte> destination) {
  const absl::Span<std::byte> stored = destination.last(static_cast<size_t>(tensor.size_bytes()));
  if (absl::Status read = checkpoint.ReadInto(tensor, stored); !read.ok()) return read;
  // PyTorch makes room for rows of whole bytes, and then packs all elements without regard to rows.
  const auto per_byte = static_cast<size_t>(DTypeElementsPerByte(tensor.dtype));
  const size_t used = per_byte == 1
                          ? stored.size()
                          : (destination.size() / sizeof(float) + per_byte - 1) / per_byte;
  const absl::Span<std::byte> integers = destination.last(used);
  if (used > 0) std::memmove(integers.data(), stored.data(), used);
  const Quantizer& quantizer = *tensor.quantizer;
  if (quantizer.scheme == Quantizer::Scheme::kPerTensorAffine) {
    const auto scale = static_cast<float>(quantizer.scale);
    const auto zero_point = static_cast<uint32_t>(quantizer.zero_point);
    Convert(tensor.dtype, integers.data(), destination, [&](int32_t value, int64_t) {
      return scale *
             static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(value) - zero_point));
    });
    return absl::OkStatus();
  }
  const auto axis = static_cast<size_t>(quantizer.axis);
  const int64_t channels = tensor.shape[axis];
  int64_t inner = 1;
  for (size_t i = axis + 1; i < tensor.shape.size(); ++i) inner *= tensor.shape[i];
  const auto channel_of = [&](int64_t i) { return static_cast<size_t>(i / inner % channels); };
  const absl::StatusOr<std::vector<float>> zero_points =
      ReadNumbers<float>(checkpoint, *quantizer.zero_points);
  if (!zero_points.ok()) return InContext("zero points", zero_points.status());
  // What the zero points are decides, whatever the scheme is called.
  if (quantizer.zero_points->dtype == DType::kFloat32 ||
      quantizer.zero_points->dtype == DType::kFloat64) {
    const absl::StatusOr<std::vector<float>> scales =
        ReadNumbers<float>(checkpoint, *quantizer.scales);
    if (!scales.ok()) return InContext("scales", scales.status());
    Convert(tensor.dtype, integers.data(), destination, [&](int32_t value, int64_t i) {
      const size_t channel = channel_of(i);
      return (static_cast<float>(value) - (*zero_points)[channel]) * (*scales)[channel];
    });
    return absl::OkStatus();
  }
  const absl::StatusOr<std::vector<double>> scales =
      ReadNumbers<double>(checkpoint, *quantizer.scales);
  if (!scales.ok()) return InContext("scales", scales.status());
  Convert(tensor.dtype, integers.data(), destination, [&](int32_t value, int64_t i) {
    const size_t channel = channel_of(i);
    return static_cast<float>((static_cast<float>(value) - (*zero_points)[channel]) *
                              (*scales)[channel]);
  });
  return absl::OkStatus();
}

absl::Status CheckCap(const char* what, int64_t size_bytes, int64_t max_bytes) {
  if (size_bytes <= max_bytes) return absl::OkStatus();
  return Refused("expected at most ", max_bytes, " bytes of ", what, ", got ", size_bytes);
}

absl::StatusOr<std::vector<std::byte>> ReadPart(const Checkpoint& checkpoint, const char* what,
                                                const TensorDescriptor& part, int64_t max_bytes) {
  if (absl::Status fits = CheckCap(what, part.size_bytes(), max_bytes); !fits.ok()) return fits;
  std::vector<std::byte> bytes(static_cast<size_t>(part.size_bytes()));
  if (absl::Status read = checkpoint.ReadInto(part, absl::MakeSpan(bytes)); !read.ok()) return read;
  return bytes;
}

absl::StatusOr<std::vector<int64_t>> ReadIndices(const Checkpoint& checkpoint, const char* what,
                                                 const TensorDescriptor& part, int64_t max_bytes) {
  // As they are held, in 64 bits.
  const int64_t held = part.num_elements();
  if (absl::Status fits = CheckCap(what, held, max_bytes / 8); !fits.ok()) return fits;
  absl::StatusOr<std::vector<int64_t>> numbers = ReadNumbers<int64_t>(checkpoint, part);
  if (!numbers.ok()) return InContext(what, numbers.status());
  return numbers;
}

absl::Status ReadSparse(const Checkpoint& checkpoint, const TensorDescriptor& tensor,
                        int64_t max_bytes, absl::Span<std::byte> destination) {
  const SparseParts& parts = *tensor.sparse;
  auto indices = ReadIndices(checkpoint, "indices", *parts.indices, max_bytes);
  if (!indices.ok()) return indices.status();
  const auto values = ReadPart(checkpoint, "values", *parts.values, max_bytes);
  if (!values.ok()) return values.status();
  std::vector<int64_t> compressed;
  if (parts.compressed_indices != nullptr) {
    auto read = ReadIndices(checkpoint, "compressed indices", *parts.compressed_indices, max_bytes);
    if (!read.ok()) return read.status();
    compressed = *std::move(read);
  }
  return Densify(tensor, compressed, *indices, *values, destination);
}

}  // namespace

absl::StatusOr<DenseForm> DenseFormOf(const TensorDescriptor& tensor, int64_t max_bytes) {
  DenseForm form{.dtype = tensor.quantizer.has_value() ? DType::kFloat32 : tensor.dtype};
  form.size_bytes = tensor.size_bytes();
  if (tensor.quantizer.has_value()) {
    const absl::StatusOr<int64_t> bytes = CountBytes(tensor.num_elements(), DType::kFloat32);
    if (!bytes.ok()) return bytes.status();
    form.size_bytes = *bytes;
  }
  absl::Status fits = CheckCap("dense numbers", form.size_bytes, max_bytes);
  if (!fits.ok()) return InContext(absl::StrCat("tensor '", Printable(tensor.name), "'"), fits);
  return form;
}

absl::Status ReadDense(const Checkpoint& checkpoint, const TensorDescriptor& tensor,
                       int64_t max_bytes, absl::Span<std::byte> destination) {
  const absl::StatusOr<DenseForm> form = DenseFormOf(tensor, max_bytes);
  if (!form.ok()) return InContext(Printable(checkpoint.path()), form.status());
  if (static_cast<int64_t>(destination.size()) != form->size_bytes) {
    return InContext(Where(checkpoint, tensor),
                     Refused("expected a destination of ", form->size_bytes, " bytes, got ",
                             destination.size()));
  }
  if (tensor.sparse.has_value()) {
    return InContext(Where(checkpoint, tensor),
                     ReadSparse(checkpoint, tensor, max_bytes, destination));
  }
  if (!tensor.quantizer.has_value()) return checkpoint.ReadInto(tensor, destination);
  return InContext(Where(checkpoint, tensor), Dequantise(checkpoint, tensor, destination));
}

}  // namespace sconce
