#include "server/tools/tensor_parts.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/tools/text.h"

namespace sconce::tools {
namespace {

// Small enough for the second-level cache to hold what is computed of a piece, large enough for the
// cost of a read not to matter.
constexpr int64_t kPieceElements = int64_t{128} << 10;

const char* LayoutName(SparseParts::Layout layout) {
  switch (layout) {
    case SparseParts::Layout::kCoo:
      return "COO";
    case SparseParts::Layout::kCsr:
      return "CSR";
    case SparseParts::Layout::kCsc:
      return "CSC";
    case SparseParts::Layout::kBsr:
      return "BSR";
    case SparseParts::Layout::kBsc:
      return "BSC";
  }
  return "";
}

}  // namespace

std::vector<TensorPart> PartsOf(const TensorDescriptor& tensor) {
  std::vector<TensorPart> parts;
  const auto add = [&](const char* role, const std::shared_ptr<const TensorDescriptor>& part) {
    if (part != nullptr) parts.push_back({role, part.get()});
  };
  if (tensor.sparse.has_value()) {
    add("compressed indices", tensor.sparse->compressed_indices);
    add("indices", tensor.sparse->indices);
    add("values", tensor.sparse->values);
    return parts;
  }
  parts.push_back({"", &tensor});
  if (tensor.quantizer.has_value()) {
    add("scales", tensor.quantizer->scales);
    add("zero points", tensor.quantizer->zero_points);
  }
  return parts;
}

int64_t StoredBytes(const TensorDescriptor& tensor) {
  int64_t bytes = 0;
  for (const TensorPart& part : PartsOf(tensor)) bytes += part.tensor->size_bytes();
  return bytes;
}

TensorKind KindOf(const TensorDescriptor& tensor) {
  if (tensor.sparse.has_value()) return TensorKind::kSparse;
  return IsQuantized(tensor.dtype) ? TensorKind::kQuantized : TensorKind::kDense;
}

std::string FormText(const TensorDescriptor& tensor) {
  if (tensor.sparse.has_value()) {
    const SparseParts& sparse = *tensor.sparse;
    const int64_t values = sparse.values == nullptr ? 0 : sparse.values->num_elements();
    return absl::StrCat("sparse ", LayoutName(sparse.layout), ", ", PluralText(values, "value"));
  }
  if (tensor.quantizer.has_value()) {
    const Quantizer& quantizer = *tensor.quantizer;
    return quantizer.scales != nullptr
               ? absl::StrCat("quantized per channel, axis ", quantizer.axis)
               : absl::StrCat("quantized, scale ", NumberText(quantizer.scale), ", zero point ",
                              quantizer.zero_point);
  }
  if (tensor.chunks != nullptr) {
    return PluralText(static_cast<int64_t>(tensor.chunks->size()), "chunk");
  }
  return "";
}

absl::Status PieceReader::Read(const Checkpoint& checkpoint, const TensorDescriptor& tensor,
                               const Consumer& consumer) {
  const Source source{&checkpoint, &tensor};
  return ReadGroup({&source, 1}, [&](absl::Span<const absl::Span<const std::byte>> pieces) {
    return consumer(pieces[0]);
  });
}

absl::Status PieceReader::ReadGroup(absl::Span<const Source> sources,
                                    const GroupConsumer& consumer) {
  if (staging_.size() < sources.size()) staging_.resize(sources.size());
  // In stored elements, which for the types that pack several into a byte are bytes.
  const auto stored_elements = [](const TensorDescriptor& tensor) {
    return tensor.size_bytes() / std::max<int64_t>(DTypeSize(tensor.dtype), 1);
  };
  const int64_t total = stored_elements(*sources[0].tensor);
  std::vector<absl::Span<const std::byte>> pieces(sources.size());
  for (int64_t begin = 0; begin < total; begin += kPieceElements) {
    const int64_t count = std::min(kPieceElements, total - begin);
    int64_t bytes_read = 0;
    for (size_t i = 0; i < sources.size(); ++i) {
      const int64_t size = DTypeSize(sources[i].tensor->dtype);
      staging_[i].resize(static_cast<size_t>(kPieceElements * size));
      const absl::Span<std::byte> piece(staging_[i].data(), static_cast<size_t>(count * size));
      const absl::Status read =
          sources[i].checkpoint->ReadRange(*sources[i].tensor, begin * size, piece);
      if (!read.ok()) return read;
      pieces[i] = piece;
      bytes_read += count * size;
    }
    if (absl::Status status = consumer(pieces); !status.ok()) return status;
    if (absl::Status status = progress_.Advance(bytes_read); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace sconce::tools
