#include "server/device/upload/passing_tensor.h"

#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/element_index.h"
#include "server/base/non_finite.h"
#include "server/base/printable.h"
#include "server/weights/scalar_type.h"

namespace sconce {
namespace {

// Several functions look at the same bytes: the first-level cache holds them meanwhile.
constexpr size_t kStepBytes = size_t{16} << 10;

// "nan", "-inf", "1e+20", "(0, inf)".
std::string NumberText(DType dtype, std::byte* element) {
  const c10::InferenceMode normal(false);
  const at::Tensor one = at::from_blob(element, {}, at::TensorOptions(ToScalarType(dtype)));
  if (!IsComplex(dtype)) return absl::StrCat(one.to(at::kDouble).item<double>());
  const auto value = one.to(at::kComplexDouble).item<c10::complex<double>>();
  return absl::StrCat("(", value.real(), ", ", value.imag(), ")");
}

}  // namespace

PassingTensor::PassingTensor(const TensorDescriptor* tensor, const DigestKey* key,
                             std::vector<DType> finite_as)
    : tensor_(*tensor),
      size_bytes_(tensor->size_bytes()),
      element_bytes_(static_cast<size_t>(DTypeSize(tensor->dtype))),
      finite_as_(std::move(finite_as)),
      id_(*tensor) {
  if (key != nullptr) keyed_.emplace(key);
}

void PassingTensor::Update(absl::Span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const int64_t in_chunk = id_.size_bytes() % kDigestChunkBytes;
    const size_t left_of_chunk = static_cast<size_t>(kDigestChunkBytes - in_chunk);
    const size_t size = std::min({bytes.size(), left_of_chunk, kStepBytes});
    UpdateChunk(bytes.first(size));
    bytes.remove_prefix(size);
  }
}

void PassingTensor::UpdateChunk(absl::Span<const std::byte> bytes) {
  id_.Update(bytes);
  if (keyed_.has_value()) {
    keyed_->Update(bytes);
    if (id_.size_bytes() % kDigestChunkBytes == 0 || id_.size_bytes() == size_bytes_) {
      chunks_.push_back(keyed_->Finish());
    }
  }
  if (!finite_as_.empty() && !found_.has_value()) LookForNonFinite(bytes);
}

void PassingTensor::LookForNonFinite(absl::Span<const std::byte> bytes) {
  if (cut_bytes_ > 0) {
    const size_t taken = std::min(element_bytes_ - cut_bytes_, bytes.size());
    std::memcpy(cut_.data() + cut_bytes_, bytes.data(), taken);
    cut_bytes_ += taken;
    bytes.remove_prefix(taken);
    if (cut_bytes_ < element_bytes_) return;
    cut_bytes_ = 0;
    LookAtWhole({cut_.data(), element_bytes_});
  }
  const size_t whole = bytes.size() / element_bytes_ * element_bytes_;
  LookAtWhole(bytes.first(whole));
  cut_bytes_ = bytes.size() - whole;
  if (cut_bytes_ > 0) std::memcpy(cut_.data(), bytes.data() + whole, cut_bytes_);
}

void PassingTensor::LookAtWhole(absl::Span<const std::byte> elements) {
  for (const DType as : finite_as_) {
    const auto first = FirstNonFinite(tensor_.dtype, as, elements);
    if (!first.has_value() || found_.has_value()) continue;
    found_ = {elements_ + *first, as, {}};
    std::memcpy(found_->bytes.data(),
                elements.data() + static_cast<size_t>(*first) * element_bytes_, element_bytes_);
  }
  elements_ += static_cast<int64_t>(elements.size() / element_bytes_);
}

absl::Status PassingTensor::Finite() const {
  if (!found_.has_value()) return absl::OkStatus();
  std::array<std::byte, 16> bytes = found_->bytes;
  const bool as_it_is =
      FirstNonFinite(tensor_.dtype, tensor_.dtype, absl::MakeConstSpan(bytes).first(element_bytes_))
          .has_value();
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor '", Printable(tensor_.name), "': expected finite weights, got ",
      NumberText(tensor_.dtype, bytes.data()), " at ",
      ElementIndexText(found_->element, tensor_.shape),
      as_it_is ? "" : absl::StrCat(", too large for ", std::string(DTypeName(found_->as)))));
}

}  // namespace sconce
