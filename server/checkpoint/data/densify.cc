#include "server/checkpoint/data/densify.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "server/checkpoint/data/half_float.h"
#include "server/checkpoint/data/sparse_shapes.h"
#include "server/checkpoint/error_context.h"

namespace sconce {
namespace {

// Adds `bytes` bytes of numbers to those at `sum`.
using Adder = void (*)(std::byte* sum, const std::byte* numbers, size_t bytes);

template <typename T, typename Plus>
void AddEach(std::byte* sum, const std::byte* numbers, size_t bytes, const Plus& plus) {
  for (size_t i = 0; i < bytes; i += sizeof(T)) {
    T a, b;
    std::memcpy(&a, sum + i, sizeof(T));
    std::memcpy(&b, numbers + i, sizeof(T));
    a = static_cast<T>(plus(a, b));
    std::memcpy(sum + i, &a, sizeof(T));
  }
}

template <typename T>
void Add(std::byte* sum, const std::byte* numbers, size_t bytes) {
  AddEach<T>(sum, numbers, bytes, [](T a, T b) { return a + b; });
}

void AddHalf(std::byte* sum, const std::byte* numbers, size_t bytes) {
  AddEach<uint16_t>(sum, numbers, bytes, [](uint16_t a, uint16_t b) {
    return FloatToHalf(HalfToFloat(a) + HalfToFloat(b));
  });
}

void AddBFloat16(std::byte* sum, const std::byte* numbers, size_t bytes) {
  AddEach<uint16_t>(sum, numbers, bytes, [](uint16_t a, uint16_t b) {
    return FloatToBFloat16(BFloat16ToFloat(a) + BFloat16ToFloat(b));
  });
}

void AddBool(std::byte* sum, const std::byte* numbers, size_t bytes) {
  AddEach<uint8_t>(sum, numbers, bytes, [](uint8_t a, uint8_t b) { return a != 0 || b != 0; });
}

// Null for types that PyTorch has no sums of. Integers wrap, as unsigned ones do.
Adder AdderOf(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return AddBool;
    case DType::kUInt8:
    case DType::kInt8:
      return Add<uint8_t>;
    case DType::kUInt16:
    case DType::kInt16:
      return Add<uint16_t>;
    case DType::kUInt32:
    case DType::kInt32:
      return Add<uint32_t>;
    case DType::kUInt64:
    case DType::kInt64:
      return Add<uint64_t>;
    case DType::kFloat16:
    case DType::kComplex32:
      return AddHalf;
    case DType::kBFloat16:
      return AddBFloat16;
    case DType::kFloat32:
    case DType::kComplex64:
      return Add<float>;
    case DType::kFloat64:
    case DType::kComplex128:
      return Add<double>;
    default:
      return nullptr;
  }
}

absl::Status CheckIndex(int64_t index, int64_t size, const char* what) {
  if (index >= 0 && index < size) return absl::OkStatus();
  return Refused("expected ", what, " from 0 to ", size - 1, ", got ", index);
}

struct Parts {
  absl::Span<const int64_t> compressed;
  absl::Span<const int64_t> indices;
  absl::Span<const std::byte> values;
  absl::Span<std::byte> dense;
  Adder add;
};

// Bytes of one dense element: all that the last `dense` dimensions hold.
size_t DenseBytes(const TensorDescriptor& tensor, const SparseDimensions& dimensions) {
  auto bytes = static_cast<size_t>(DTypeSize(tensor.dtype));
  for (size_t i = tensor.shape.size() - dimensions.dense; i < tensor.shape.size(); ++i) {
    bytes *= static_cast<size_t>(tensor.shape[i]);
  }
  return bytes;
}

absl::Status DensifyCoo(const TensorDescriptor& tensor, const SparseDimensions& dimensions,
                        const Parts& parts) {
  const size_t bytes = DenseBytes(tensor, dimensions);
  const auto count = static_cast<size_t>(dimensions.specified);
  for (size_t element = 0; element < count; ++element) {
    size_t place = 0;
    for (size_t i = 0; i < dimensions.sparse; ++i) {
      const int64_t index = parts.indices[i * count + element];
      if (absl::Status inside = CheckIndex(index, tensor.shape[i], "a sparse index");
          !inside.ok()) {
        return inside;
      }
      place = place * static_cast<size_t>(tensor.shape[i]) + static_cast<size_t>(index);
    }
    parts.add(parts.dense.data() + place * bytes, parts.values.data() + element * bytes, bytes);
  }
  return absl::OkStatus();
}

// One batch of a compressed layout.
absl::Status DensifyBatch(const TensorDescriptor& tensor, const SparseDimensions& dimensions,
                          const Parts& parts) {
  const size_t bytes = DenseBytes(tensor, dimensions);
  const int64_t rows = tensor.shape[dimensions.batch];
  const int64_t columns = tensor.shape[dimensions.batch + 1];
  const int64_t block_rows = dimensions.block_rows;
  const int64_t block_columns = dimensions.block_columns;
  const int64_t plain_size =
      dimensions.compresses_rows ? columns / block_columns : rows / block_rows;
  const size_t lines = parts.compressed.size() - 1;
  if (parts.compressed[0] != 0 || parts.compressed[lines] != dimensions.specified) {
    return Refused("expected compressed indices from 0 to the ", dimensions.specified,
                   " specified elements, got ", parts.compressed[0], " to ",
                   parts.compressed[lines]);
  }
  for (size_t line = 0; line < lines; ++line) {
    const int64_t end = parts.compressed[line + 1];
    if (end < parts.compressed[line] || end > dimensions.specified) {
      return Refused("expected compressed indices that rise to ", dimensions.specified, ", got ",
                     parts.compressed[line], " and then ", end);
    }
    int64_t previous = -1;
    for (int64_t element = parts.compressed[line]; element < end; ++element) {
      const int64_t plain = parts.indices[static_cast<size_t>(element)];
      absl::Status inside = CheckIndex(plain, plain_size, "a sparse index");
      if (!inside.ok()) return inside;
      if (plain <= previous) {
        return Refused("expected sparse indices that rise in each line, got ", previous,
                       " and then ", plain);
      }
      previous = plain;
      const auto major = static_cast<int64_t>(line);
      const int64_t row = (dimensions.compresses_rows ? major : plain) * block_rows;
      const int64_t column = (dimensions.compresses_rows ? plain : major) * block_columns;
      const size_t row_bytes = static_cast<size_t>(block_columns) * bytes;
      for (int64_t i = 0; i < block_rows; ++i) {
        const auto to = static_cast<size_t>((row + i) * columns + column) * bytes;
        const auto from = static_cast<size_t>(element * block_rows + i) * row_bytes;
        parts.add(parts.dense.data() + to, parts.values.data() + from, row_bytes);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status DensifyCompressed(const TensorDescriptor& tensor, const SparseDimensions& dimensions,
                               const Parts& parts) {
  size_t batches = 1;
  for (size_t i = 0; i < dimensions.batch; ++i) batches *= static_cast<size_t>(tensor.shape[i]);
  for (size_t batch = 0; batch < batches; ++batch) {
    const auto share = [&](auto all) {
      return all.subspan(batch * (all.size() / batches), all.size() / batches);
    };
    const Parts part = {.compressed = share(parts.compressed),
                        .indices = share(parts.indices),
                        .values = share(parts.values),
                        .dense = share(parts.dense),
                        .add = parts.add};
    absl::Status done = DensifyBatch(tensor, dimensions, part);
    if (!done.ok()) return done;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Densify(const TensorDescriptor& tensor, absl::Span<const int64_t> compressed_indices,
                     absl::Span<const int64_t> indices, absl::Span<const std::byte> values,
                     absl::Span<std::byte> destination) {
  const Adder add = AdderOf(tensor.dtype);
  if (add == nullptr) {
    return Refused("expected a type that elements can be added in, got ",
                   std::string(DTypeName(tensor.dtype)));
  }
  // Added to zeros rather than copied, as PyTorch does: -0.0 becomes 0.0.
  std::fill(destination.begin(), destination.end(), std::byte{0});
  const Parts parts = {.compressed = compressed_indices,
                       .indices = indices,
                       .values = values,
                       .dense = destination,
                       .add = add};
  const SparseDimensions dimensions = SparseDimensionsOf(tensor);
  return tensor.sparse->layout == SparseParts::Layout::kCoo
             ? DensifyCoo(tensor, dimensions, parts)
             : DensifyCompressed(tensor, dimensions, parts);
}

}  // namespace sconce
