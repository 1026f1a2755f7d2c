// The tensors that are made of several: quantised ones, whose channels may each have a scale, and
// sparse ones.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/checkpoint/data/sparse_shapes.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/pytorch/tensor_rebuilder.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

struct LayoutName {
  std::string_view name;
  SparseParts::Layout layout;
};

constexpr LayoutName kLayouts[] = {
    {"torch.sparse_coo", SparseParts::Layout::kCoo},
    {"torch.sparse_csr", SparseParts::Layout::kCsr},
    {"torch.sparse_csc", SparseParts::Layout::kCsc},
    {"torch.sparse_bsr", SparseParts::Layout::kBsr},
    {"torch.sparse_bsc", SparseParts::Layout::kBsc},
};

// torch.serialization._get_layout(name)
absl::StatusOr<SparseParts::Layout> SparseLayoutOf(const PickleTree& tree, PickleId id) {
  if (tree.kind(id) == PickleKind::kCall &&
      tree.IsGlobal(tree.Callable(id), "torch.serialization", "_get_layout")) {
    const absl::Span<const PickleId> arguments = tree.Items(tree.Arguments(id));
    const std::optional<std::string_view> name =
        arguments.size() == 1 ? tree.AsString(arguments[0]) : std::nullopt;
    for (const LayoutName& known : kLayouts) {
      if (name == known.name) return known.layout;
    }
    if (name.has_value()) {
      return Refused("expected a sparse layout of torch, got '", Printable(*name), "'");
    }
  }
  return Refused("expected a sparse layout of torch, got ", tree.TypeName(id));
}

}  // namespace

// (storage, offset, size, stride, quantizer, requires_grad, hooks)
absl::StatusOr<TensorDescriptor> TensorRebuilder::RebuildQuantized(Arguments arguments, int depth) {
  absl::Status fits = CheckArgumentCount(arguments.size(), 7, 7, "_rebuild_qtensor");
  if (!fits.ok()) return fits;
  TensorDescriptor tensor;
  const absl::StatusOr<PickledStorages::Slice> slice = SetView(arguments, tensor);
  if (!slice.ok()) return slice.status();
  if (!slice->type.has_value() || !IsQuantized(*slice->type)) {
    return Refused(
        "expected a storage of a quantised type for _rebuild_qtensor, got ",
        slice->type.has_value() ? std::string(DTypeName(*slice->type)) : "an untyped one");
  }
  tensor.dtype = *slice->type;
  if (absl::Status inside = Place(*slice, tensor); !inside.ok()) return inside;
  if (absl::Status set = SetQuantizer(arguments[4], depth, tensor); !set.ok()) {
    return InContext("quantizer", set);
  }
  return tensor;
}

// (per_tensor scheme, scale, zero_point) or (per_channel scheme, scales, zero_points, axis)
absl::Status TensorRebuilder::SetQuantizer(PickleId parameters, int depth,
                                           TensorDescriptor& tensor) {
  if (tree_.kind(parameters) != PickleKind::kTuple || tree_.Items(parameters).empty()) {
    return Refused("expected a tuple that starts with a scheme, got ",
                   PickleKindName(tree_.kind(parameters)));
  }
  const Arguments items = tree_.Items(parameters);
  Quantizer quantizer;
  if (tree_.IsGlobal(items[0], "torch", "per_tensor_affine")) {
    absl::Status fits = CheckArgumentCount(items.size(), 3, 3, "per_tensor_affine");
    if (!fits.ok()) return fits;
    if (tree_.kind(items[1]) != PickleKind::kFloat) {
      return Refused("expected a float as the scale, got ", PickleKindName(tree_.kind(items[1])));
    }
    const absl::StatusOr<int64_t> zero_point = IntegerOf(items[2], "the zero point");
    if (!zero_point.ok()) return zero_point.status();
    quantizer.scale = tree_.Float(items[1]);
    quantizer.zero_point = *zero_point;
    tensor.quantizer = std::move(quantizer);
    return absl::OkStatus();
  }
  if (tree_.IsGlobal(items[0], "torch", "per_channel_affine")) {
    quantizer.scheme = Quantizer::Scheme::kPerChannelAffine;
  } else if (tree_.IsGlobal(items[0], "torch", "per_channel_affine_float_qparams")) {
    quantizer.scheme = Quantizer::Scheme::kPerChannelAffineFloatQParams;
  } else {
    return Refused("expected a known scheme, got ", tree_.TypeName(items[0]));
  }
  absl::Status fits = CheckArgumentCount(items.size(), 4, 4, "per_channel_affine");
  if (!fits.ok()) return fits;
  const absl::StatusOr<int64_t> axis = IntegerOf(items[3], "the axis");
  if (!axis.ok()) return axis.status();
  if (*axis < 0 || *axis >= static_cast<int64_t>(tensor.shape.size())) {
    return Refused("expected an axis of the tensor's ", tensor.shape.size(), ", got ", *axis);
  }
  quantizer.axis = *axis;
  const int64_t channels = tensor.shape[static_cast<size_t>(*axis)];
  auto scales = RebuildChannelValues(items[1], "scales", channels, depth);
  if (!scales.ok()) return scales.status();
  auto zero_points = RebuildChannelValues(items[2], "zero points", channels, depth);
  if (!zero_points.ok()) return zero_points.status();
  quantizer.scales = *std::move(scales);
  quantizer.zero_points = *std::move(zero_points);
  tensor.quantizer = std::move(quantizer);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const TensorDescriptor>> TensorRebuilder::RebuildChannelValues(
    PickleId id, const char* what, int64_t channels, int depth) {
  auto values = RebuildPart(id, what, depth);
  if (!values.ok()) return values;
  const TensorDescriptor& tensor = **values;
  if (tensor.shape.size() != 1 || tensor.shape[0] != channels) {
    return Refused("expected one of the ", what, " for each of ", channels, " channels, got ",
                   tensor.num_elements());
  }
  return values;
}

// A dense tensor that another is made of.
absl::StatusOr<std::shared_ptr<const TensorDescriptor>> TensorRebuilder::RebuildPart(
    PickleId id, const char* what, int depth) {
  absl::StatusOr<TensorDescriptor> part = RebuildAt(id, depth + 1);
  if (!part.ok()) return InContext(what, part.status());
  if (part->sparse.has_value() || part->quantizer.has_value()) {
    return Refused("expected a plain tensor as the ", what, ", got a ",
                   part->sparse.has_value() ? "sparse" : "quantised", " one");
  }
  return std::make_shared<const TensorDescriptor>(*std::move(part));
}

// (layout, (indices, values, size [, is coalesced])), or for the compressed layouts
// (layout, (compressed indices, plain indices, values, size))
absl::StatusOr<TensorDescriptor> TensorRebuilder::RebuildSparse(Arguments arguments, int depth) {
  absl::Status fits = CheckArgumentCount(arguments.size(), 2, 2, "_rebuild_sparse_tensor");
  if (!fits.ok()) return fits;
  const absl::StatusOr<SparseParts::Layout> layout = SparseLayoutOf(tree_, arguments[0]);
  if (!layout.ok()) return layout.status();
  if (tree_.kind(arguments[1]) != PickleKind::kTuple) {
    return Refused("expected a tuple of the parts of a sparse tensor, got ",
                   PickleKindName(tree_.kind(arguments[1])));
  }
  const Arguments items = tree_.Items(arguments[1]);
  const bool is_coo = *layout == SparseParts::Layout::kCoo;
  fits = CheckArgumentCount(items.size(), is_coo ? 3 : 4, 4, "a sparse tensor");
  if (!fits.ok()) return fits;
  SparseParts parts;
  parts.layout = *layout;
  if (!is_coo) {
    auto compressed = RebuildPart(items[0], "compressed indices", depth);
    if (!compressed.ok()) return compressed.status();
    parts.compressed_indices = *std::move(compressed);
  } else if (items.size() == 4 && tree_.kind(items[3]) == PickleKind::kBool) {
    parts.coalesced = tree_.Bool(items[3]);
  }
  const size_t first = is_coo ? 0 : 1;
  auto indices = RebuildPart(items[first], "indices", depth);
  if (!indices.ok()) return indices.status();
  parts.indices = *std::move(indices);
  auto values = RebuildPart(items[first + 1], "values", depth);
  if (!values.ok()) return values.status();
  parts.values = *std::move(values);
  absl::StatusOr<std::vector<int64_t>> shape = IntegersOf(items[first + 2], "the sizes");
  if (!shape.ok()) return shape.status();

  TensorDescriptor tensor;
  tensor.dtype = parts.values->dtype;
  tensor.shape = *std::move(shape);
  tensor.storage = kNoStorage;
  tensor.sparse = std::move(parts);
  if (absl::Status sound = CheckSparseShapes(tensor); !sound.ok()) return sound;
  tensor.strides = ContiguousStrides(tensor.shape);
  return tensor;
}

}  // namespace sconce
