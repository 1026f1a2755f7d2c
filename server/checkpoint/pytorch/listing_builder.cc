#include "server/checkpoint/pytorch/listing_builder.h"

#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/base/utf8.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/tensor_bounds.h"

namespace sconce {

bool IsExtraState(std::string_view name) {
  return name == "_extra_state" || name.ends_with("._extra_state");
}

absl::Status ListingBuilder::Add(std::string_view name, PickleId value, bool is_parameter) {
  const absl::Status added = AddEntry(name, value, is_parameter);
  if (added.ok()) return added;
  return InContext(absl::StrCat("tensor '", Printable(name), "'"), added);
}

absl::Status ListingBuilder::AddEntry(std::string_view name, PickleId value, bool is_parameter) {
  if (!IsUtf8(name)) return Refused("expected a name in valid UTF-8");
  if (!names_.emplace(name).second) {
    return Refused("expected each name once in the state_dict, got it twice");
  }
  if (names_.size() > kMaxTensorCount) {
    return Refused("expected at most ", kMaxTensorCount, " entries in a state_dict, got more");
  }
  if (IsExtraState(name) || tree_.kind(value) == PickleKind::kNone) return absl::OkStatus();
  if (!rebuilder_.IsTensor(value)) {
    listing_.non_tensors.push_back({std::string(name), tree_.TypeName(value)});
    return absl::OkStatus();
  }
  if (rebuilder_.HasNoData(value)) {
    has_meta_tensors_ = true;
    listing_.non_tensors.push_back({std::string(name), "tensor on the meta device, without data"});
    return absl::OkStatus();
  }
  absl::StatusOr<TensorDescriptor> tensor = rebuilder_.Rebuild(value);
  if (!tensor.ok()) return tensor.status();
  tensor->name = std::string(name);
  if (is_parameter) tensor->is_parameter = true;
  listing_.tensors.push_back(*std::move(tensor));
  return absl::OkStatus();
}

absl::Status ListingBuilder::CheckHasData() const {
  if (!has_meta_tensors_ || !listing_.tensors.empty()) return absl::OkStatus();
  return Refused(
      "expected tensors with data, got only tensors on the meta device, which have none");
}

}  // namespace sconce
