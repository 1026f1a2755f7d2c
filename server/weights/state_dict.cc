#include "server/weights/state_dict.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "server/base/content_hash.h"
#include "server/base/dtype.h"
#include "server/base/printable.h"
#include "server/weights/key_normalisation.h"
#include "server/weights/scalar_type.h"

namespace sconce {
namespace {

// Of a cache line, and what vector instructions like best.
constexpr int64_t kAlignment = 64;

// What makes two descriptors the same view of the same bytes.
using ViewKey = std::tuple<int32_t, int64_t, DType, std::vector<int64_t>, std::vector<int64_t>, bool,
                           bool, const void*>;

ViewKey KeyOf(const TensorDescriptor& tensor) {
  return {tensor.storage, tensor.offset,    tensor.dtype,    tensor.shape,
          tensor.strides, tensor.conjugate, tensor.negative, tensor.chunks.get()};
}

// Where each tensor goes in the one allocation.
struct Placement {
  std::vector<int64_t> offsets;   // of each tensor, in bytes
  std::vector<size_t> same_view;  // the first tensor that is the same view: itself if not tied
  int64_t size_bytes = 0;
};

absl::StatusOr<Placement> Place(const Checkpoint& checkpoint) {
  Placement placement;
  std::map<ViewKey, size_t> first_of_view;
  const std::vector<TensorDescriptor>& tensors = checkpoint.tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto [first, is_new] = first_of_view.emplace(KeyOf(tensors[i]), i);
    placement.same_view.push_back(first->second);
    if (!is_new) {
      placement.offsets.push_back(placement.offsets[first->second]);
      continue;
    }
    placement.offsets.push_back(placement.size_bytes);
    int64_t aligned = 0;
    if (__builtin_add_overflow(tensors[i].size_bytes(), kAlignment - 1, &aligned) ||
        __builtin_add_overflow(placement.size_bytes, aligned / kAlignment * kAlignment,
                               &placement.size_bytes)) {
      return absl::InvalidArgumentError(
          absl::StrCat(checkpoint.path(), ": tensor '", Printable(tensors[i].name),
                       "': the sizes of the tensors so far add up to more than any memory"));
    }
  }
  return placement;
}

std::string StrippedPrefix(const Checkpoint& checkpoint) {
  std::vector<std::string> names;
  for (const TensorDescriptor& tensor : checkpoint.tensors()) names.push_back(tensor.name);
  for (const NonTensorEntry& entry : checkpoint.non_tensors()) names.push_back(entry.name);
  return WrapperPrefix(names);
}

void Update(ContentHasher& hasher, int64_t value) {
  hasher.Update({reinterpret_cast<const std::byte*>(&value), sizeof(value)});
}

void Update(ContentHasher& hasher, std::string_view text) {
  Update(hasher, static_cast<int64_t>(text.size()));
  hasher.Update({reinterpret_cast<const std::byte*>(text.data()), text.size()});
}

Digest128 TensorDigest(const TensorDescriptor& tensor, absl::Span<const std::byte> bytes) {
  ContentHasher hasher;
  Update(hasher, DTypeName(tensor.dtype));
  Update(hasher, static_cast<int64_t>(tensor.shape.size()));
  for (const int64_t dimension : tensor.shape) Update(hasher, dimension);
  hasher.Update(bytes);
  return hasher.Finish();
}

// `named`: each tensor's stripped name and digest.
std::string WeightsId(std::vector<std::pair<std::string, Digest128>> named) {
  std::sort(named.begin(), named.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  ContentHasher hasher;
  for (const auto& [name, digest] : named) {
    Update(hasher, name);
    Update(hasher, static_cast<int64_t>(digest.hi));
    Update(hasher, static_cast<int64_t>(digest.lo));
  }
  return hasher.Finish().Hex();
}

// A tensor over bytes of `buffer`, which lives as long as the tensor.
at::Tensor ViewOf(const at::Tensor& buffer, int64_t offset, const TensorDescriptor& tensor) {
  return at::for_blob(static_cast<std::byte*>(buffer.mutable_data_ptr()) + offset, tensor.shape)
      .options(at::TensorOptions().dtype(ToScalarType(tensor.dtype)))
      .deleter([buffer](void*) {})
      .make_tensor();
}

absl::StatusOr<StateDict> Read(const Checkpoint& checkpoint, const Placement& placement,
                               const at::Tensor& buffer) {
  StateDict state;
  state.stripped_prefix = StrippedPrefix(checkpoint);
  const size_t cut = state.stripped_prefix.size();
  std::vector<std::pair<std::string, Digest128>> digests;
  std::byte* const base = static_cast<std::byte*>(buffer.mutable_data_ptr());

  const std::vector<TensorDescriptor>& tensors = checkpoint.tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorDescriptor& tensor = tensors[i];
    StateEntry entry{.name = tensor.name.substr(cut)};
    const size_t first = placement.same_view[i];
    if (first != i) {
      entry.tensor = state.tensors[first].tensor;
      entry.quantized = state.tensors[first].quantized;
      digests.emplace_back(entry.name, digests[first].second);
      state.tensors.push_back(std::move(entry));
      continue;
    }
    const absl::Span<std::byte> bytes(base + placement.offsets[i],
                                      static_cast<size_t>(tensor.size_bytes()));
    if (absl::Status status = checkpoint.ReadInto(tensor, bytes); !status.ok()) return status;
    digests.emplace_back(entry.name, TensorDigest(tensor, bytes));
    entry.quantized = IsQuantized(tensor.dtype);
    entry.tensor = entry.quantized ? at::empty({}, at::kByte).expand(tensor.shape)
                                   : ViewOf(buffer, placement.offsets[i], tensor);
    state.tensors.push_back(std::move(entry));
  }
  if (absl::Status status = checkpoint.CheckUnchanged(); !status.ok()) return status;

  for (NonTensorEntry entry : checkpoint.non_tensors()) {
    entry.name.erase(0, cut);
    state.non_tensors.push_back(std::move(entry));
  }
  for (const auto& [module, version] : checkpoint.module_versions()) {
    std::string name = module;
    // In the map's order a wrapper's "" comes before the root under it, which is the one to keep.
    if (StripModuleName(state.stripped_prefix, name)) state.module_versions[name] = version;
  }
  state.weights_id = WeightsId(std::move(digests));
  return state;
}

}  // namespace

absl::StatusOr<StateLayout> DescribeState(const Checkpoint& checkpoint) {
  absl::StatusOr<Placement> placement = Place(checkpoint);
  if (!placement.ok()) return placement.status();
  StateLayout layout;
  layout.stripped_prefix = StrippedPrefix(checkpoint);
  layout.size_bytes = placement->size_bytes;
  for (const TensorDescriptor& tensor : checkpoint.tensors()) {
    layout.tensors.push_back({tensor.name.substr(layout.stripped_prefix.size()),
                              ToScalarType(tensor.dtype), tensor.shape});
  }
  return layout;
}

absl::StatusOr<StateDict> ReadStateDict(const Checkpoint& checkpoint) {
  absl::StatusOr<Placement> placement = Place(checkpoint);
  if (!placement.ok()) return placement.status();
  // An inference tensor could not become a module's parameter later.
  c10::InferenceMode normal(false);
  at::Tensor buffer;
  try {
    buffer = at::empty({placement->size_bytes}, at::kByte);
  } catch (const std::exception& error) {
    return absl::ResourceExhaustedError(absl::StrCat(
        checkpoint.path(), ": no memory for the weights (", placement->size_bytes, " bytes)"));
  }
  try {
    return Read(checkpoint, *placement, buffer);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        absl::StrCat(checkpoint.path(), ": no memory while reading the weights"));
  } catch (const c10::Error& error) {
    return absl::InternalError(
        absl::StrCat(checkpoint.path(), ": ", error.what_without_backtrace()));
  }
}

}  // namespace sconce
