#include "server/checkpoint/data/sparse_shapes.h"

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

using Shape = absl::Span<const int64_t>;

std::string List(Shape numbers) { return absl::StrCat("[", absl::StrJoin(numbers, ", "), "]"); }

absl::Status CheckShape(const char* what, Shape got, Shape expected) {
  if (got == expected) return absl::OkStatus();
  return Refused("expected ", what, " of shape ", List(expected), ", got ", List(got));
}

absl::Status CheckIndexType(const char* what, const TensorDescriptor& indices, bool may_be_int32) {
  if (indices.dtype == DType::kInt64 || (may_be_int32 && indices.dtype == DType::kInt32)) {
    return absl::OkStatus();
  }
  return Refused("expected ", what, " of int64", may_be_int32 ? " or int32" : "", ", got ",
                 std::string(DTypeName(indices.dtype)));
}

// indices [sparse dimensions, n], values [n, dense...]
absl::Status CheckCoo(const TensorDescriptor& tensor) {
  const SparseParts& parts = *tensor.sparse;
  if (absl::Status type = CheckIndexType("indices", *parts.indices, false); !type.ok()) return type;
  const Shape indices = parts.indices->shape;
  if (indices.size() != 2 || static_cast<uint64_t>(indices[0]) > tensor.shape.size()) {
    return Refused("expected indices of shape [sparse dimensions, elements] for a tensor of shape ",
                   List(tensor.shape), ", got ", List(indices));
  }
  std::vector<int64_t> expected = {indices[1]};
  expected.insert(expected.end(), tensor.shape.begin() + indices[0], tensor.shape.end());
  return CheckShape("values", parts.values->shape, expected);
}

// compressed [batch..., n + 1], plain [batch..., m], values [batch..., m, block..., dense...]
absl::Status CheckCompressed(const TensorDescriptor& tensor) {
  const SparseParts& parts = *tensor.sparse;
  for (const auto& [what, part] : {std::pair("compressed indices", parts.compressed_indices.get()),
                                   std::pair("plain indices", parts.indices.get())}) {
    if (absl::Status type = CheckIndexType(what, *part, true); !type.ok()) return type;
    if (part->dtype != parts.indices->dtype)
      return Refused("expected indices of one type, got two");
    if (part->shape.empty()) return Refused("expected ", what, " of 1 or more dimensions, got 0");
  }
  const Shape shape = tensor.shape;
  const Shape plain = parts.indices->shape;
  const Shape values = parts.values->shape;
  const size_t batch = plain.size() - 1;
  const bool has_blocks =
      parts.layout == SparseParts::Layout::kBsr || parts.layout == SparseParts::Layout::kBsc;
  const size_t block = has_blocks ? 2 : 0;
  if (shape.size() < batch + 2 || values.size() != shape.size() - 1 + block) {
    return Refused("expected values that fit indices of shape ", List(plain),
                   " in a tensor of shape ", List(shape), ", got values of shape ", List(values));
  }
  std::vector<int64_t> expected(plain.begin(), plain.end());
  expected.insert(expected.end(), values.begin() + plain.size(),
                  values.begin() + plain.size() + block);
  expected.insert(expected.end(), shape.begin() + batch + 2, shape.end());
  if (absl::Status same = CheckShape("values", values, expected); !same.ok()) return same;
  const Shape batches = shape.first(batch);
  if (plain.first(batch) != batches) {
    return Refused("expected plain indices for batches of shape ", List(batches), ", got ",
                   List(plain));
  }
  const SparseDimensions dimensions = SparseDimensionsOf(tensor);
  const int64_t rows = shape[batch];
  const int64_t columns = shape[batch + 1];
  if (dimensions.block_rows < 1 || dimensions.block_columns < 1 ||
      rows % dimensions.block_rows != 0 || columns % dimensions.block_columns != 0) {
    return Refused("expected blocks that divide ", rows, " rows and ", columns, " columns, got ",
                   dimensions.block_rows, " x ", dimensions.block_columns);
  }
  std::vector<int64_t> compressed(batches.begin(), batches.end());
  compressed.push_back((dimensions.compresses_rows ? rows / dimensions.block_rows
                                                   : columns / dimensions.block_columns) +
                       1);
  return CheckShape("compressed indices", parts.compressed_indices->shape, compressed);
}

}  // namespace

absl::Status CheckSparseShapes(const TensorDescriptor& tensor) {
  if (tensor.shape.size() > kMaxTensorRank) {
    return Refused("expected at most ", kMaxTensorRank, " dimensions, got ", tensor.shape.size());
  }
  const absl::StatusOr<int64_t> bytes = CountTensorBytes(tensor.shape, tensor.dtype);
  if (!bytes.ok()) return bytes.status();
  for (const int64_t size : tensor.shape) {
    // So that a row count plus one stays a number.
    if (size == INT64_MAX) return Refused("expected sizes below 2^63 - 1, got ", size);
  }
  return tensor.sparse->layout == SparseParts::Layout::kCoo ? CheckCoo(tensor)
                                                            : CheckCompressed(tensor);
}

SparseDimensions SparseDimensionsOf(const TensorDescriptor& tensor) {
  using Layout = SparseParts::Layout;
  const SparseParts& parts = *tensor.sparse;
  SparseDimensions dimensions;
  dimensions.specified = parts.indices->shape.back();
  if (parts.layout == Layout::kCoo) {
    dimensions.sparse = static_cast<size_t>(parts.indices->shape[0]);
    dimensions.dense = tensor.shape.size() - dimensions.sparse;
    return dimensions;
  }
  dimensions.batch = parts.indices->shape.size() - 1;
  dimensions.sparse = 2;
  dimensions.dense = tensor.shape.size() - dimensions.batch - 2;
  dimensions.compresses_rows = parts.layout == Layout::kCsr || parts.layout == Layout::kBsr;
  if (parts.layout == Layout::kBsr || parts.layout == Layout::kBsc) {
    dimensions.block_rows = parts.values->shape[dimensions.batch + 1];
    dimensions.block_columns = parts.values->shape[dimensions.batch + 2];
  }
  return dimensions;
}

}  // namespace sconce
