#include "server/weights/state_dict.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "server/base/dtype.h"
#include "server/base/printable.h"
#include "server/checkpoint/tied_tensors.h"
#include "server/weights/key_normalisation.h"
#include "server/weights/scalar_type.h"
#include "server/weights/weights_digest.h"

namespace sconce {
namespace {

// Of a cache line, and what vector instructions like best.
constexpr int64_t kAlignment = 64;

// Where each tensor goes in the one allocation.
struct Placement {
  std::vector<int64_t> offsets;   // of each tensor, in bytes
  std::vector<size_t> same_view;  // the first tensor that is the same view: itself if not tied
  int64_t size_bytes = 0;
};

absl::StatusOr<Placement> Place(const Checkpoint& checkpoint) {
  Placement placement;
  const std::vector<TensorDescriptor>& tensors = checkpoint.tensors();
  placement.same_view = FirstOfSameView(tensors);
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (const size_t first = placement.same_view[i]; first != i) {
      placement.offsets.push_back(placement.offsets[first]);
      continue;
    }
    placement.offsets.push_back(placement.size_bytes);
    if (tensors[i].sparse.has_value()) continue;
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

// A tensor over bytes of `buffer`, which lives as long as the tensor.
at::Tensor ViewOf(const at::Tensor& buffer, int64_t offset, const TensorDescriptor& tensor) {
  return at::for_blob(static_cast<std::byte*>(buffer.mutable_data_ptr()) + offset, tensor.shape)
      .options(at::TensorOptions().dtype(ToScalarType(tensor.dtype)))
      .deleter([buffer](void*) {})
      .make_tensor();
}

// Everything of the state_dict that is no tensor. REQUIRES: state.stripped_prefix is known.
void DescribeRest(const Checkpoint& checkpoint, StateDict& state) {
  state.has_lifted_constants = checkpoint.format() == std::string_view("ONNX");
  for (NonTensorEntry entry : checkpoint.non_tensors()) {
    entry.name.erase(0, state.stripped_prefix.size());
    state.non_tensors.push_back(std::move(entry));
  }
  for (const auto& [module, version] : checkpoint.module_versions()) {
    std::string name = module;
    // In the map's order a wrapper's "" comes before the root under it, which is the one to keep.
    if (StripModuleName(state.stripped_prefix, name)) state.module_versions[name] = version;
  }
}

// An entry for a tensor whose values LibTorch does not copy into a plain parameter; nullopt for all
// others.
std::optional<StateEntry> WithoutValues(const TensorDescriptor& tensor, const std::string& name) {
  const bool quantized = IsQuantized(tensor.dtype);
  if (!quantized && !tensor.sparse.has_value()) return std::nullopt;
  StateEntry entry{.name = name, .quantized = quantized};
  entry.tensor =
      at::empty({}, quantized ? at::kByte : ToScalarType(tensor.dtype)).expand(tensor.shape);
  if (tensor.sparse.has_value()) entry.sparse = tensor.sparse->layout;
  return entry;
}

// Reads each different view to its place in `buffer`; returns the digests by tensor.
absl::StatusOr<std::vector<Digest128>> ReadAll(const Checkpoint& checkpoint,
                                               const Placement& placement,
                                               const at::Tensor& buffer) {
  const std::vector<TensorDescriptor>& tensors = checkpoint.tensors();
  std::byte* const base = static_cast<std::byte*>(buffer.mutable_data_ptr());
  std::vector<Digest128> digests(tensors.size());
  std::vector<size_t> indices;
  std::vector<TensorRequest> requests;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorDescriptor& tensor = tensors[i];
    if (placement.same_view[i] != i) continue;
    if (tensor.sparse.has_value()) {
      absl::StatusOr<Digest128> digest = SparseDigest(checkpoint, tensor);
      if (!digest.ok()) return digest.status();
      digests[i] = *digest;
      continue;
    }
    if (tensor.size_bytes() == 0) digests[i] = TensorDigest(tensor).Finish();
    indices.push_back(i);
    requests.push_back(
        {.tensor = &tensor,
         .destination = {base + placement.offsets[i], static_cast<size_t>(tensor.size_bytes())}});
  }
  std::vector<std::optional<TensorDigest>> running(requests.size());
  ReadOptions options;
  options.on_piece = [&](size_t request, absl::Span<const std::byte> piece) {
    const TensorDescriptor& tensor = *requests[request].tensor;
    std::optional<TensorDigest>& digest = running[request];
    if (!digest.has_value()) digest.emplace(tensor);
    digest->Update(piece);
    if (digest->size_bytes() < tensor.size_bytes()) return;
    digests[indices[request]] = digest->Finish();
    digest.reset();
  };
  absl::Status read = checkpoint.ReadTensors(requests, options);
  if (!read.ok()) return read;
  if (absl::Status status = checkpoint.CheckUnchanged(); !status.ok()) return status;
  for (size_t i = 0; i < tensors.size(); ++i) digests[i] = digests[placement.same_view[i]];
  return digests;
}

absl::StatusOr<StateDict> Read(const Checkpoint& checkpoint, const Placement& placement,
                               const at::Tensor& buffer) {
  const absl::StatusOr<std::vector<Digest128>> digests = ReadAll(checkpoint, placement, buffer);
  if (!digests.ok()) return digests.status();
  StateDict state;
  state.stripped_prefix = StrippedPrefixOf(checkpoint);
  std::vector<std::pair<std::string, Digest128>> named;
  for (size_t i = 0; i < checkpoint.tensors().size(); ++i) {
    const TensorDescriptor& tensor = checkpoint.tensors()[i];
    const std::string name = tensor.name.substr(state.stripped_prefix.size());
    named.emplace_back(name, (*digests)[i]);
    const size_t first = placement.same_view[i];
    if (std::optional<StateEntry> entry = WithoutValues(tensor, name)) {
      state.tensors.push_back(*std::move(entry));
    } else if (first != i) {
      state.tensors.push_back({.name = name, .tensor = state.tensors[first].tensor});
    } else {
      state.tensors.push_back(
          {.name = name, .tensor = ViewOf(buffer, placement.offsets[i], tensor)});
    }
  }
  DescribeRest(checkpoint, state);
  state.weights_id = WeightsId(std::move(named));
  return state;
}

// The first touch of fresh memory costs more than reading into it does; with huge pages, less.
void UseHugePages(const at::Tensor& buffer) {
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const auto begin = reinterpret_cast<uintptr_t>(buffer.data_ptr());
  const uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (begin + static_cast<uintptr_t>(buffer.nbytes())) / kHugePage * kHugePage;
  // Where the kernel has none to give, ordinary pages do.
  if (first < end) (void)::madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
}

}  // namespace

std::string StrippedPrefixOf(const Checkpoint& checkpoint) {
  std::vector<std::string> names;
  for (const TensorDescriptor& tensor : checkpoint.tensors()) names.push_back(tensor.name);
  for (const NonTensorEntry& entry : checkpoint.non_tensors()) names.push_back(entry.name);
  return WrapperPrefix(names);
}

absl::StatusOr<StateLayout> DescribeState(const Checkpoint& checkpoint) {
  absl::StatusOr<Placement> placement = Place(checkpoint);
  if (!placement.ok()) return placement.status();
  StateLayout layout;
  layout.stripped_prefix = StrippedPrefixOf(checkpoint);
  layout.size_bytes = placement->size_bytes;
  for (const TensorDescriptor& tensor : checkpoint.tensors()) {
    layout.tensors.push_back({tensor.name.substr(layout.stripped_prefix.size()),
                              ToScalarType(tensor.dtype), tensor.shape});
  }
  return layout;
}

StateDict OutlineStateDict(const Checkpoint& checkpoint) {
  c10::InferenceMode normal(false);
  StateDict state;
  state.stripped_prefix = StrippedPrefixOf(checkpoint);
  for (const TensorDescriptor& tensor : checkpoint.tensors()) {
    const std::string name = tensor.name.substr(state.stripped_prefix.size());
    if (std::optional<StateEntry> entry = WithoutValues(tensor, name)) {
      state.tensors.push_back(*std::move(entry));
    } else {
      state.tensors.push_back(
          {.name = name, .tensor = at::empty({}, ToScalarType(tensor.dtype)).expand(tensor.shape)});
    }
  }
  DescribeRest(checkpoint, state);
  return state;
}

absl::StatusOr<StateDict> ReadStateDict(const Checkpoint& checkpoint) {
  absl::StatusOr<Placement> placement = Place(checkpoint);
  if (!placement.ok()) return placement.status();
  // An inference tensor could not become a module's parameter later.
  c10::InferenceMode normal(false);
  at::Tensor buffer;
  try {
    buffer = at::empty({placement->size_bytes}, at::kByte);
    UseHugePages(buffer);
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
