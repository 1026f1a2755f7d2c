#include "server/weights/weights_digest.h"

#include <algorithm>
#include <string_view>

#include "server/base/dtype.h"

namespace sconce {
namespace {

constexpr int64_t kPieceBytes = int64_t{1} << 20;

void Update(ContentHasher& hasher, int64_t value) {
  hasher.Update({reinterpret_cast<const std::byte*>(&value), sizeof(value)});
}

void Update(ContentHasher& hasher, std::string_view text) {
  Update(hasher, static_cast<int64_t>(text.size()));
  hasher.Update({reinterpret_cast<const std::byte*>(text.data()), text.size()});
}

}  // namespace

TensorDigest::TensorDigest(const TensorDescriptor& tensor) {
  sconce::Update(hasher_, DTypeName(tensor.dtype));
  sconce::Update(hasher_, static_cast<int64_t>(tensor.shape.size()));
  for (const int64_t dimension : tensor.shape) sconce::Update(hasher_, dimension);
}

void TensorDigest::Update(absl::Span<const std::byte> bytes) {
  hasher_.Update(bytes);
  size_bytes_ += static_cast<int64_t>(bytes.size());
}

absl::StatusOr<Digest128> SparseDigest(const Checkpoint& checkpoint,
                                       const TensorDescriptor& tensor) {
  const SparseParts& parts = *tensor.sparse;
  ContentHasher hasher;
  Update(hasher, static_cast<int64_t>(parts.layout));
  Update(hasher, static_cast<int64_t>(tensor.shape.size()));
  for (const int64_t dimension : tensor.shape) Update(hasher, dimension);
  std::vector<std::byte> buffer;
  for (const auto& part : {parts.indices, parts.compressed_indices, parts.values}) {
    if (part == nullptr) continue;
    TensorDigest digest(*part);
    while (digest.size_bytes() < part->size_bytes()) {
      const int64_t left = part->size_bytes() - digest.size_bytes();
      buffer.resize(static_cast<size_t>(std::min(left, kPieceBytes)));
      absl::Status read = checkpoint.ReadRange(*part, digest.size_bytes(), absl::MakeSpan(buffer));
      if (!read.ok()) return read;
      digest.Update(buffer);
    }
    const Digest128 finished = digest.Finish();
    Update(hasher, static_cast<int64_t>(finished.hi));
    Update(hasher, static_cast<int64_t>(finished.lo));
  }
  return hasher.Finish();
}

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

}  // namespace sconce
