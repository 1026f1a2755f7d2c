#include "server/reload/version_policy.h"

#include <cstddef>

namespace sconce {

std::set<int64_t> WantedVersions(const VersionPolicy& policy, const std::set<int64_t>& usable) {
  std::set<int64_t> wanted;
  switch (policy.kind) {
    case VersionPolicy::Kind::kAll:
      return usable;
    case VersionPolicy::Kind::kSpecific:
      for (const int64_t number : policy.specific) {
        if (usable.count(number) > 0) wanted.insert(number);
      }
      return wanted;
    case VersionPolicy::Kind::kLatest:
      for (auto number = usable.rbegin();
           number != usable.rend() && static_cast<int64_t>(wanted.size()) < policy.latest;
           ++number) {
        wanted.insert(*number);
      }
      return wanted;
  }
  return wanted;
}

std::vector<int64_t> VersionsToWithdraw(const std::set<int64_t>& wanted,
                                        const std::set<int64_t>& serving) {
  // Without anything wanted there is no successor at all.
  if (wanted.empty()) return {};
  size_t missing = 0;
  for (const int64_t number : wanted) missing += serving.count(number) == 0 ? 1 : 0;
  std::vector<int64_t> withdrawn;
  for (auto number = serving.rbegin(); number != serving.rend(); ++number) {
    if (wanted.count(*number) > 0) continue;
    if (missing > 0) {
      --missing;
    } else {
      withdrawn.push_back(*number);
    }
  }
  return withdrawn;
}

}  // namespace sconce
