#include "server/reload/refusals.h"

#include <algorithm>

namespace sconce {
Refusals::Refusals(const std::vector<SavedModel::Refusal>& saved) {
  for (const SavedModel::Refusal& refusal : saved) {
    if (refusal.status_code != 0) refusals_.push_back(refusal);
  }
}

void Refusals::Add(const ModelSource& source, const absl::Status& reason) {
  Forget(source);
  refusals_.push_back({.source = FingerprintText(source),
                       .reason = std::string(reason.message()),
                       .status_code = static_cast<int>(reason.code())});
  if (refusals_.size() > SavedModel::kMostRefusals) refusals_.erase(refusals_.begin());
}

void Refusals::Forget(const ModelSource& source) {
  if (refusals_.empty()) return;
  const std::string text = FingerprintText(source);
  std::erase_if(refusals_, [&text](const auto& refusal) { return refusal.source == text; });
}

std::optional<absl::Status> Refusals::Find(const ModelSource& source) const {
  if (refusals_.empty()) return std::nullopt;
  const std::string text = FingerprintText(source);
  const auto found = std::find_if(refusals_.begin(), refusals_.end(),
                                  [&text](const auto& refusal) { return refusal.source == text; });
  if (found == refusals_.end()) return std::nullopt;
  return absl::Status(static_cast<absl::StatusCode>(found->status_code), found->reason);
}

}  // namespace sconce
