#include "server/checkpoint/pytorch/pickled_storages.h"

#include <array>
#include <cstddef>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "server/base/printable.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {
namespace {

constexpr size_t kMaxKeyBytes = 256;

struct StorageClass {
  std::string_view name;
  DType dtype;
};

// The first 17 are PyTorch's own classes; the others are written by TorchScript alone, which makes
// the class's name of the dtype's.
constexpr std::array<StorageClass, 27> kStorageClasses = {{
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
    {"ComplexHalfStorage", DType::kComplex32},
    {"UInt16Storage", DType::kUInt16},
    {"UInt32Storage", DType::kUInt32},
    {"UInt64Storage", DType::kUInt64},
    {"Float8_e5m2Storage", DType::kFloat8E5M2},
    {"Float8_e4m3fnStorage", DType::kFloat8E4M3FN},
    {"Float8_e5m2fnuzStorage", DType::kFloat8E5M2FNUZ},
    {"Float8_e4m3fnuzStorage", DType::kFloat8E4M3FNUZ},
    {"Float8_e8m0fnuStorage", DType::kFloat8E8M0FNU},
    {"Float4_e2m1fn_x2Storage", DType::kFloat4E2M1FNX2},
}};

absl::StatusOr<int64_t> CountOf(const PickleTree& tree, PickleId id, const char* what) {
  if (tree.kind(id) != PickleKind::kInt) {
    return Refused("expected an int as ", what, ", got ", PickleKindName(tree.kind(id)));
  }
  if (tree.Int(id) < 0) return Refused("expected 0 or more as ", what, ", got ", tree.Int(id));
  return tree.Int(id);
}

// (key, offset, size)
absl::Status SetView(const PickleTree& tree, PickleId view, StorageReference& reference) {
  if (tree.kind(view) == PickleKind::kNone) return absl::OkStatus();
  if (tree.kind(view) != PickleKind::kTuple || tree.Items(view).size() != 3) {
    return Refused("expected None or a tuple (key, offset, size) as the view of a storage, got ",
                   PickleKindName(tree.kind(view)));
  }
  const absl::Span<const PickleId> items = tree.Items(view);
  const absl::StatusOr<int64_t> offset = CountOf(tree, items[1], "the view's offset");
  if (!offset.ok()) return offset.status();
  const absl::StatusOr<int64_t> numel = CountOf(tree, items[2], "the view's size");
  if (!numel.ok()) return numel.status();
  if (*offset > reference.numel || *numel > reference.numel - *offset) {
    return Refused("expected a view inside the storage's ", reference.numel, " elements, got ",
                   *numel, " elements from ", *offset);
  }
  reference.view_offset = *offset;
  reference.view_numel = *numel;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<StorageType> StorageTypeOf(const PickleTree& tree, PickleId storage_class) {
  if (tree.kind(storage_class) != PickleKind::kGlobal) {
    return Refused("expected a storage class in the persistent id, got ",
                   PickleKindName(tree.kind(storage_class)));
  }
  const PickleTree::Global global = tree.GlobalName(storage_class);
  if (global.name == "UntypedStorage" &&
      (global.module == "torch.storage" || global.module == "torch")) {
    return StorageType();
  }
  if (global.module == "torch" || global.module == "torch.cuda") {
    for (const StorageClass& known : kStorageClasses) {
      if (known.name == global.name) return StorageType(known.dtype);
    }
  }
  return Refused("expected a storage class of torch in the persistent id, got ",
                 tree.TypeName(storage_class));
}

absl::StatusOr<StorageReference> ParseStorageReference(const PickleTree& tree,
                                                       PickleId persistent) {
  if (tree.kind(persistent) != PickleKind::kPersistent) {
    return Refused("expected a storage, got ", PickleKindName(tree.kind(persistent)));
  }
  const PickleId id = tree.PersistentId(persistent);
  const bool is_tuple = tree.kind(id) == PickleKind::kTuple;
  const absl::Span<const PickleId> items = is_tuple ? tree.Items(id) : absl::Span<const PickleId>();
  if ((items.size() != 5 && items.size() != 6) || tree.AsString(items[0]) != "storage") {
    return Refused("expected a persistent id ('storage', class, key, location, elements), got ",
                   is_tuple ? "other items" : "no tuple");
  }
  StorageReference reference;
  const absl::StatusOr<StorageType> type = StorageTypeOf(tree, items[1]);
  if (!type.ok()) return type.status();
  reference.type = *type;
  const std::optional<std::string_view> key = tree.AsString(items[2]);
  if (!key.has_value() || key->empty() || key->find('/') != std::string_view::npos) {
    return Refused("expected a storage key without '/' in the persistent id, got ",
                   key.has_value() ? absl::StrCat("'", Printable(*key), "'")
                                   : PickleKindName(tree.kind(items[2])));
  }
  // Compared again and again, and PyTorch's are numbers.
  if (key->size() > kMaxKeyBytes) {
    return Refused("expected a storage key of at most ", kMaxKeyBytes, " bytes, got ", key->size());
  }
  reference.key = *key;
  const std::string where = absl::StrCat("storage '", Printable(*key), "'");
  const absl::StatusOr<int64_t> numel = CountOf(tree, items[4], "the number of elements");
  if (!numel.ok()) return InContext(where, numel.status());
  const absl::StatusOr<int64_t> bytes = CountBytes(*numel, type->value_or(DType::kUInt8));
  if (!bytes.ok()) return InContext(where, bytes.status());
  reference.numel = *numel;
  reference.size_bytes = *bytes;
  reference.view_numel = *numel;
  if (items.size() == 6) {
    absl::Status set = SetView(tree, items[5], reference);
    if (!set.ok()) return InContext(where, set);
  }
  return reference;
}

absl::Status CheckSameStorage(const StorageReference& before, const StorageReference& now) {
  // A tensor of a type without a storage class of its own may share its bytes with one that has.
  const bool same_type =
      before.type == now.type || !before.type.has_value() || !now.type.has_value();
  if (same_type && before.size_bytes == now.size_bytes) return absl::OkStatus();
  return Refused("expected one type and size for one storage, got ", before.numel, " and ",
                 now.numel, " elements or different types");
}

absl::StatusOr<PickledStorages::Slice> PickledStorages::FindOrAdd(PickleId persistent) {
  const absl::StatusOr<StorageReference> reference = ParseStorageReference(tree_, persistent);
  if (!reference.ok()) return reference.status();
  // CountBytes was OK for the whole storage, and the view is inside it.
  const int64_t item_size = DTypeSize(reference->type.value_or(DType::kUInt8));
  Slice slice{.storage = 0,
              .type = reference->type,
              .offset = reference->view_offset,
              .size_bytes = reference->view_numel * item_size};
  const auto where = [&] { return absl::StrCat("storage '", Printable(reference->key), "'"); };
  if (const auto known = by_key_.find(reference->key); known != by_key_.end()) {
    absl::Status same = CheckSameStorage(known->second.reference, *reference);
    if (!same.ok()) return InContext(where(), same);
    slice.storage = known->second.index;
    return slice;
  }
  if (find_storage_ == nullptr) {
    return InContext(where(), Refused("expected no storage by key in such a file, got one"));
  }
  absl::StatusOr<StorageDescriptor> descriptor = find_storage_(reference->key);
  if (!descriptor.ok()) return InContext(where(), descriptor.status());
  if (reference->size_bytes != descriptor->size_bytes) {
    return InContext(where(),
                     Refused("expected ", reference->size_bytes, " bytes for ", reference->numel,
                             " elements, got a record of ", descriptor->size_bytes));
  }
  slice.storage = static_cast<int32_t>(storages_.size());
  storages_.push_back(*std::move(descriptor));
  by_key_.emplace(reference->key, Known{.index = slice.storage, .reference = *reference});
  return slice;
}

}  // namespace sconce
