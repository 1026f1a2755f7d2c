#include "server/checkpoint/pytorch/tensor_rebuilder.h"

#include <cstddef>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

// A tensor is built of a tensor at most a few times over (a Parameter of a subclass of a plain
// tensor); more is a trap for whoever follows it.
constexpr int kMaxRebuildDepth = 8;

// PyTorch writes two entries, 'conj' and 'neg'.
constexpr size_t kMaxMetadataItems = 2 * 16;

// Before PyTorch 0.4 a Parameter was pickled as its class, called with the data.
bool IsVariableClass(const PickleTree& tree, PickleId callable) {
  return tree.IsGlobal(callable, "torch.nn.parameter", "Parameter") ||
         tree.IsGlobal(callable, "torch.autograd.variable", "Variable");
}

}  // namespace

TensorRebuilder::TensorRebuilder(const PickleTree& tree, FindStorage find_storage)
    : tree_(tree), storages_(tree, std::move(find_storage)) {}

TensorRebuilder::TensorRebuilder(const PickleTree& tree, FindTensor find_tensor)
    : tree_(tree), find_tensor_(std::move(find_tensor)), storages_(tree, nullptr) {}

absl::Status TensorRebuilder::CheckArgumentCount(size_t got, size_t least, size_t most,
                                                 std::string_view function) {
  if (got >= least && got <= most) return absl::OkStatus();
  return Refused("expected ", least, least == most ? "" : absl::StrCat(" to ", most),
                 " arguments of ", std::string(function), ", got ", got);
}

bool TensorRebuilder::IsTensor(PickleId id) const {
  if (tree_.kind(id) == PickleKind::kPersistent) return find_tensor_ != nullptr;
  if (tree_.kind(id) != PickleKind::kCall) return false;
  if (BuildsTensor(tree_, tree_.Callable(id))) return true;
  if (!IsVariableClass(tree_, tree_.Callable(id))) return false;
  const Arguments arguments = tree_.Items(tree_.Arguments(id));
  if (arguments.empty()) return false;
  const PickleKind data = tree_.kind(arguments[0]);
  return data == PickleKind::kCall || (data == PickleKind::kPersistent && find_tensor_ != nullptr);
}

bool TensorRebuilder::HasNoData(PickleId id) const {
  for (int depth = 0; depth < kMaxRebuildDepth && tree_.kind(id) == PickleKind::kCall; ++depth) {
    const PickleId callable = tree_.Callable(id);
    if (tree_.IsGlobal(callable, "torch._utils", "_rebuild_meta_tensor_no_storage")) return true;
    const Arguments arguments = tree_.Items(tree_.Arguments(id));
    if (arguments.empty()) return false;
    if (tree_.IsGlobal(callable, "torch._tensor", "_rebuild_from_type_v2")) {
      return tree_.IsGlobal(arguments[0], "torch._utils", "_rebuild_meta_tensor_no_storage");
    }
    if (!tree_.IsGlobal(callable, "torch._utils", "_rebuild_parameter") &&
        !tree_.IsGlobal(callable, "torch._utils", "_rebuild_parameter_with_state")) {
      return false;
    }
    id = arguments[0];
  }
  return false;
}

absl::StatusOr<TensorDescriptor> TensorRebuilder::Rebuild(PickleId id) { return RebuildAt(id, 0); }

absl::StatusOr<TensorDescriptor> TensorRebuilder::RebuildAt(PickleId id, int depth) {
  if (IsTensor(id) && tree_.kind(id) == PickleKind::kPersistent) {
    return find_tensor_(tree_.PersistentId(id));
  }
  if (IsTensor(id) && !BuildsTensor(tree_, tree_.Callable(id))) {
    if (depth >= kMaxRebuildDepth) return RefuseDepth(depth);
    return RebuildParameter(tree_.Items(tree_.Arguments(id)), depth);
  }
  if (!IsTensor(id)) {
    return Refused("expected a tensor built by a torch._utils._rebuild function, got ",
                   tree_.TypeName(id), ", which is not run");
  }
  return RebuildCall(tree_.GlobalName(tree_.Callable(id)), tree_.Items(tree_.Arguments(id)), depth);
}

absl::Status TensorRebuilder::RefuseDepth(int depth) {
  return Refused("expected a tensor, got tensors wrapped in tensors ", depth, " deep");
}

absl::StatusOr<TensorDescriptor> TensorRebuilder::RebuildCall(PickleTree::Global function,
                                                              Arguments arguments, int depth) {
  if (depth >= kMaxRebuildDepth) return RefuseDepth(depth);
  if (function.module == "torch._utils") {
    if (function.name == "_rebuild_tensor" || function.name == "_rebuild_tensor_v2" ||
        function.name == "_rebuild_tensor_v3") {
      return RebuildStrided(function.name, arguments);
    }
    if (function.name == "_rebuild_parameter" || function.name == "_rebuild_parameter_with_state") {
      const size_t count = function.name == "_rebuild_parameter" ? 3 : 4;
      absl::Status fits = CheckArgumentCount(arguments.size(), count, count, function.name);
      if (!fits.ok()) return fits;
      return RebuildParameter(arguments, depth);
    }
    if (function.name == "_rebuild_qtensor") return RebuildQuantized(arguments, depth);
    if (function.name == "_rebuild_device_tensor_from_cpu_tensor") {
      return RebuildForDevice(arguments, depth);
    }
    if (function.name == "_rebuild_sparse_tensor") return RebuildSparse(arguments, depth);
    if (function.name == "_rebuild_meta_tensor_no_storage") {
      return Refused("expected a tensor with data, got one on the meta device, which has none");
    }
  } else if (function.name == "_rebuild_from_type" || function.name == "_rebuild_from_type_v2") {
    // In torch._tensor, and in torch.tensor up to PyTorch 1.8.
    return RebuildFromType(arguments, depth);
  }
  return Refused("expected a known function that builds a tensor, got ",
                 Printable(std::string(function.module)), ".",
                 Printable(std::string(function.name)));
}

absl::StatusOr<TensorDescriptor> TensorRebuilder::RebuildStrided(std::string_view function,
                                                                 Arguments arguments) {
  const bool is_v1 = function == "_rebuild_tensor";
  const bool is_v3 = function == "_rebuild_tensor_v3";
  const size_t least = is_v1 ? 4 : is_v3 ? 7 : 6;
  const size_t most = is_v1 ? 4 : least + 1;
  absl::Status fits = CheckArgumentCount(arguments.size(), least, most, function);
  if (!fits.ok()) return fits;

  TensorDescriptor tensor;
  const absl::StatusOr<PickledStorages::Slice> slice = SetView(arguments, tensor);
  if (!slice.ok()) return slice.status();
  if (is_v3) {
    const absl::StatusOr<DType> dtype = DTypeOf(arguments[6]);
    if (!dtype.ok()) return dtype.status();
    tensor.dtype = *dtype;
  } else if (slice->type.has_value()) {
    tensor.dtype = *slice->type;
  } else {
    return Refused("expected a storage with an element type for ", std::string(function),
                   ", got an untyped one");
  }
  if (IsQuantized(tensor.dtype)) {
    return Refused("expected ", std::string(DTypeName(tensor.dtype)),
                   " elements to be built by _rebuild_qtensor, got ", std::string(function));
  }
  if (arguments.size() == least + 1) {
    if (absl::Status set = SetBits(arguments[least], tensor); !set.ok()) return set;
  }
  if (absl::Status inside = Place(*slice, tensor); !inside.ok()) return inside;
  return tensor;
}

// (data, requires_grad, hooks [, state])
absl::StatusOr<TensorDescriptor> TensorRebuilder::RebuildParameter(Arguments arguments, int depth) {
  absl::StatusOr<TensorDescriptor> tensor = RebuildAt(arguments[0], depth + 1);
  if (tensor.ok()) tensor->is_parameter = true;
  return tensor;
}

// (function, type, arguments, state): a tensor with attributes, or of a subclass. The data is what
// the function builds.
absl::StatusOr<TensorDescriptor> TensorRebuilder::RebuildFromType(Arguments arguments, int depth) {
  absl::Status fits = CheckArgumentCount(arguments.size(), 4, 4, "_rebuild_from_type");
  if (!fits.ok()) return fits;
  if (tree_.kind(arguments[0]) != PickleKind::kGlobal || !BuildsTensor(tree_, arguments[0])) {
    return Refused("expected a tensor built by a torch._utils._rebuild function, got ",
                   tree_.TypeName(arguments[0]), ", which is not run");
  }
  if (tree_.kind(arguments[2]) != PickleKind::kTuple) {
    return Refused("expected a tuple of arguments in _rebuild_from_type, got ",
                   PickleKindName(tree_.kind(arguments[2])));
  }
  absl::StatusOr<TensorDescriptor> tensor =
      RebuildCall(tree_.GlobalName(arguments[0]), tree_.Items(arguments[2]), depth + 1);
  if (tensor.ok() && tree_.IsGlobal(arguments[1], "torch.nn.parameter", "Parameter")) {
    tensor->is_parameter = true;
  }
  return tensor;
}

// (data, dtype, device, requires_grad): saved from a device that PyTorch brings to the CPU first.
absl::StatusOr<TensorDescriptor> TensorRebuilder::RebuildForDevice(Arguments arguments, int depth) {
  absl::Status fits =
      CheckArgumentCount(arguments.size(), 4, 4, "_rebuild_device_tensor_from_cpu_tensor");
  if (!fits.ok()) return fits;
  absl::StatusOr<TensorDescriptor> tensor = RebuildAt(arguments[0], depth + 1);
  if (!tensor.ok()) return tensor;
  const absl::StatusOr<DType> dtype = DTypeOf(arguments[1]);
  if (!dtype.ok()) return dtype.status();
  if (*dtype != tensor->dtype) {
    return Refused("expected data of the tensor's type ", std::string(DTypeName(*dtype)), ", got ",
                   std::string(DTypeName(tensor->dtype)));
  }
  return tensor;
}

absl::StatusOr<PickledStorages::Slice> TensorRebuilder::SetView(Arguments arguments,
                                                                TensorDescriptor& tensor) {
  absl::StatusOr<PickledStorages::Slice> slice = storages_.FindOrAdd(arguments[0]);
  if (!slice.ok()) return slice;
  const absl::StatusOr<int64_t> offset = IntegerOf(arguments[1], "the offset");
  if (!offset.ok()) return offset.status();
  absl::StatusOr<std::vector<int64_t>> shape = IntegersOf(arguments[2], "the sizes");
  if (!shape.ok()) return shape.status();
  absl::StatusOr<std::vector<int64_t>> strides = IntegersOf(arguments[3], "the strides");
  if (!strides.ok()) return strides.status();
  tensor.storage = slice->storage;
  tensor.offset = *offset;
  tensor.shape = *std::move(shape);
  tensor.strides = *std::move(strides);
  return slice;
}

// {'conj': bool, 'neg': bool}; other entries do not concern the data.
absl::Status TensorRebuilder::SetBits(PickleId metadata, TensorDescriptor& tensor) {
  if (tree_.kind(metadata) != PickleKind::kDict) {
    return Refused("expected a dict of tensor metadata, got ",
                   PickleKindName(tree_.kind(metadata)));
  }
  // One dict may be shared by all tensors, and is searched for each.
  if (tree_.KeysAndValues(metadata).size() > kMaxMetadataItems) {
    return Refused("expected at most ", kMaxMetadataItems / 2, " entries of tensor metadata, got ",
                   tree_.KeysAndValues(metadata).size() / 2);
  }
  const auto read = [&](const char* key, bool& bit) -> absl::Status {
    const PickleId value = tree_.Lookup(metadata, key);
    if (value == kNoPickle) return absl::OkStatus();
    if (tree_.kind(value) != PickleKind::kBool) {
      return Refused("expected a bool as '", key, "', got ", PickleKindName(tree_.kind(value)));
    }
    bit = tree_.Bool(value);
    return absl::OkStatus();
  };
  if (absl::Status set = read("conj", tensor.conjugate); !set.ok()) return set;
  return read("neg", tensor.negative);
}

absl::Status TensorRebuilder::Place(const PickledStorages::Slice& slice,
                                    TensorDescriptor& tensor) const {
  absl::Status inside = CheckTensorBounds(tensor, slice.size_bytes);
  if (!inside.ok()) {
    const std::string& member = storages_.at(slice.storage).member;
    return InContext(absl::StrCat("storage '", Printable(member), "'"), inside);
  }
  tensor.big_endian = big_endian_;
  // The offset of a tensor without elements can be anything.
  if (tensor.num_elements() > 0) tensor.offset += slice.offset;
  return absl::OkStatus();
}

absl::StatusOr<DType> TensorRebuilder::DTypeOf(PickleId id) const {
  if (tree_.kind(id) == PickleKind::kGlobal) {
    const PickleTree::Global global = tree_.GlobalName(id);
    const std::optional<DType> dtype =
        global.module == "torch" ? DTypeFromName(global.name) : std::nullopt;
    if (dtype.has_value() && *dtype != DType::kBytes) return *dtype;
  }
  return Refused("expected a dtype of torch, got ", tree_.TypeName(id));
}

absl::StatusOr<int64_t> TensorRebuilder::IntegerOf(PickleId id, const char* what) const {
  if (tree_.kind(id) == PickleKind::kInt) return tree_.Int(id);
  return Refused("expected an int as ", what, ", got ", PickleKindName(tree_.kind(id)));
}

absl::StatusOr<std::vector<int64_t>> TensorRebuilder::IntegersOf(PickleId id,
                                                                 const char* what) const {
  // torch.Size((...)) where the sizes were pickled as such.
  if (tree_.kind(id) == PickleKind::kCall && tree_.IsGlobal(tree_.Callable(id), "torch", "Size")) {
    const Arguments arguments = tree_.Items(tree_.Arguments(id));
    if (arguments.size() == 1) id = arguments[0];
  }
  if (tree_.kind(id) != PickleKind::kTuple) {
    return Refused("expected a tuple of ints as ", what, ", got ", PickleKindName(tree_.kind(id)));
  }
  const Arguments items = tree_.Items(id);
  if (items.size() > kMaxTensorRank) {
    return Refused("expected at most ", kMaxTensorRank, " dimensions in ", what, ", got ",
                   items.size());
  }
  std::vector<int64_t> integers;
  integers.reserve(items.size());
  for (const PickleId item : items) {
    const absl::StatusOr<int64_t> integer = IntegerOf(item, what);
    if (!integer.ok()) return integer.status();
    integers.push_back(*integer);
  }
  return integers;
}

}  // namespace sconce
