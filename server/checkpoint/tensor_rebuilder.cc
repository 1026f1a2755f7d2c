#include "server/checkpoint/tensor_rebuilder.h"

#include <array>
#include <cstddef>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/pickle_machine.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

// A tensor is built of a tensor at most a few times over (a Parameter of a subclass of a plain
// tensor); more is a trap for whoever follows it.
constexpr int kMaxRebuildDepth = 8;

// PyTorch writes two entries, 'conj' and 'neg'.
constexpr size_t kMaxMetadataItems = 2 * 16;

struct StorageClass {
  std::string_view name;
  DType dtype;
};

constexpr std::array<StorageClass, 17> kStorageClasses = {{
    {"DoubleStorage", DType::kFloat64},
    {"FloatStorage", DType::kFloat32},
    {"HalfStorage", DType::kFloat16},
    {"BFloat16Storage", DType::kBFloat16},
    {"LongStorage", DType::kInt64},
    {"IntStorage", DType::kInt32},
    {"ShortStorage", DType::kInt16},
    {"CharStorage", DType::kInt8},
    {"ByteStorage", DType::kUInt8},
    {"BoolStorage", DType::kBool},
    {"ComplexDoubleStorage", DType::kComplex128},
    {"ComplexFloatStorage", DType::kComplex64},
    {"QInt8Storage", DType::kQInt8},
    {"QUInt8Storage", DType::kQUInt8},
    {"QInt32Storage", DType::kQInt32},
    {"QUInt4x2Storage", DType::kQUInt4x2},
    {"QUInt2x4Storage", DType::kQUInt2x4},
}};

absl::Status CheckArgumentCount(size_t got, size_t least, size_t most, std::string_view function) {
  if (got >= least && got <= most) return absl::OkStatus();
  return Refused("expected ", least, least == most ? "" : absl::StrCat(" to ", most),
                 " arguments of ", std::string(function), ", got ", got);
}

}  // namespace

TensorRebuilder::TensorRebuilder(const PickleTree& tree, FindStorage find_storage)
    : tree_(tree), find_storage_(std::move(find_storage)) {}

bool TensorRebuilder::IsTensor(PickleId id) const {
  return tree_.kind(id) == PickleKind::kCall && BuildsTensor(tree_, tree_.Callable(id));
}

absl::StatusOr<TensorDescriptor> TensorRebuilder::Rebuild(PickleId id) { return RebuildAt(id, 0); }

absl::StatusOr<TensorDescriptor> TensorRebuilder::RebuildAt(PickleId id, int depth) {
  if (!IsTensor(id)) {
    return Refused("expected a tensor built by a torch._utils._rebuild function, got ",
                   tree_.TypeName(id), ", which is not run");
  }
  return RebuildCall(tree_.GlobalName(tree_.Callable(id)), tree_.Items(tree_.Arguments(id)), depth);
}

absl::StatusOr<TensorDescriptor> TensorRebuilder::RebuildCall(PickleTree::Global function,
                                                              Arguments arguments, int depth) {
  if (depth >= kMaxRebuildDepth) {
    return Refused("expected a tensor, got tensors wrapped in tensors ", depth, " deep");
  }
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
    if (function.name == "_rebuild_sparse_tensor") {
      return Refused("expected a dense tensor, got a sparse one, which cannot be served");
    }
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
  const absl::StatusOr<StorageType> type = SetView(arguments, tensor);
  if (!type.ok()) return type.status();
  if (is_v3) {
    const absl::StatusOr<DType> dtype = DTypeOf(arguments[6]);
    if (!dtype.ok()) return dtype.status();
    tensor.dtype = *dtype;
  } else if (type->has_value()) {
    tensor.dtype = **type;
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
  if (absl::Status inside = CheckBounds(tensor); !inside.ok()) return inside;
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

// (storage, offset, size, stride, quantizer, requires_grad, hooks)
absl::StatusOr<TensorDescriptor> TensorRebuilder::RebuildQuantized(Arguments arguments, int depth) {
  absl::Status fits = CheckArgumentCount(arguments.size(), 7, 7, "_rebuild_qtensor");
  if (!fits.ok()) return fits;
  TensorDescriptor tensor;
  const absl::StatusOr<StorageType> type = SetView(arguments, tensor);
  if (!type.ok()) return type.status();
  if (!type->has_value() || !IsQuantized(**type)) {
    return Refused("expected a storage of a quantised type for _rebuild_qtensor, got ",
                   type->has_value() ? std::string(DTypeName(**type)) : "an untyped one");
  }
  tensor.dtype = **type;
  if (absl::Status inside = CheckBounds(tensor); !inside.ok()) return inside;
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
  absl::StatusOr<TensorDescriptor> values = RebuildAt(id, depth + 1);
  if (!values.ok()) return InContext(what, values.status());
  if (values->shape.size() != 1 || values->shape[0] != channels) {
    return Refused("expected one of the ", what, " for each of ", channels, " channels, got ",
                   values->num_elements());
  }
  return std::make_shared<const TensorDescriptor>(*std::move(values));
}

absl::StatusOr<TensorRebuilder::StorageType> TensorRebuilder::SetView(Arguments arguments,
                                                                      TensorDescriptor& tensor) {
  const absl::StatusOr<Storage> storage = FindOrAddStorage(arguments[0]);
  if (!storage.ok()) return storage.status();
  const absl::StatusOr<int64_t> offset = IntegerOf(arguments[1], "the offset");
  if (!offset.ok()) return offset.status();
  absl::StatusOr<std::vector<int64_t>> shape = IntegersOf(arguments[2], "the sizes");
  if (!shape.ok()) return shape.status();
  absl::StatusOr<std::vector<int64_t>> strides = IntegersOf(arguments[3], "the strides");
  if (!strides.ok()) return strides.status();
  tensor.storage = storage->index;
  tensor.offset = *offset;
  tensor.shape = *std::move(shape);
  tensor.strides = *std::move(strides);
  return storage->type;
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

absl::Status TensorRebuilder::CheckBounds(const TensorDescriptor& tensor) const {
  const StorageDescriptor& storage = storages_[static_cast<size_t>(tensor.storage)];
  return InContext(absl::StrCat("storage '", Printable(storage.member), "'"),
                   CheckTensorBounds(tensor, storage.size_bytes));
}

// ('storage', class, key, location, number of elements)
absl::StatusOr<TensorRebuilder::Storage> TensorRebuilder::FindOrAddStorage(PickleId persistent) {
  if (tree_.kind(persistent) != PickleKind::kPersistent) {
    return Refused("expected a storage, got ", PickleKindName(tree_.kind(persistent)));
  }
  const PickleId id = tree_.PersistentId(persistent);
  if (tree_.kind(id) != PickleKind::kTuple || tree_.Items(id).size() != 5 ||
      tree_.AsString(tree_.Items(id)[0]) != "storage") {
    return Refused("expected a persistent id ('storage', class, key, location, elements), got ",
                   tree_.kind(id) == PickleKind::kTuple ? "other items" : "no tuple");
  }
  const Arguments items = tree_.Items(id);
  if (tree_.kind(items[1]) != PickleKind::kGlobal) {
    return Refused("expected a storage class in the persistent id, got ",
                   PickleKindName(tree_.kind(items[1])));
  }
  const PickleTree::Global storage_class = tree_.GlobalName(items[1]);
  StorageType type;
  bool is_known = storage_class.name == "UntypedStorage" &&
                  (storage_class.module == "torch.storage" || storage_class.module == "torch");
  if (storage_class.module == "torch" || storage_class.module == "torch.cuda") {
    for (const StorageClass& known : kStorageClasses) {
      if (known.name != storage_class.name) continue;
      type = known.dtype;
      is_known = true;
    }
  }
  if (!is_known) {
    return Refused("expected a storage class of torch in the persistent id, got ",
                   tree_.TypeName(items[1]));
  }
  const std::optional<std::string_view> key = tree_.AsString(items[2]);
  if (!key.has_value() || key->empty() || key->find('/') != std::string_view::npos) {
    return Refused("expected a storage key without '/' in the persistent id, got ",
                   key.has_value() ? absl::StrCat("'", Printable(*key), "'")
                                   : PickleKindName(tree_.kind(items[2])));
  }
  const absl::StatusOr<int64_t> numel = IntegerOf(items[4], "the number of elements");
  if (!numel.ok()) return numel.status();
  const std::string where = absl::StrCat("storage '", Printable(*key), "'");
  if (*numel < 0) return InContext(where, Refused("expected 0 or more elements, got ", *numel));

  if (const auto known = by_key_.find(*key); known != by_key_.end()) {
    const Storage& before = known->second;
    if (before.type == type && before.numel == *numel) return before;
    return InContext(where, Refused("expected one type and size for one storage, got ",
                                    before.numel, " and ", *numel, " elements or different types"));
  }
  absl::StatusOr<StorageDescriptor> descriptor = find_storage_(*key);
  if (!descriptor.ok()) return InContext(where, descriptor.status());
  const absl::StatusOr<int64_t> bytes = CountBytes(*numel, type.value_or(DType::kUInt8));
  if (!bytes.ok()) return InContext(where, bytes.status());
  if (*bytes != descriptor->size_bytes) {
    return InContext(where, Refused("expected ", *bytes, " bytes for ", *numel,
                                    " elements, got a record of ", descriptor->size_bytes));
  }
  const Storage storage{
      .index = static_cast<int32_t>(storages_.size()), .type = type, .numel = *numel};
  storages_.push_back(*std::move(descriptor));
  by_key_.emplace(*key, storage);
  return storage;
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
