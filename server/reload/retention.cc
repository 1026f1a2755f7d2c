#include "server/reload/retention.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sconce {
namespace {

absl::Status HealthOf(const ModelVersion& version) {
  absl::Status health = absl::OkStatus();
  for (const auto& replica : version.replicas) {
    health = replica->health();
    if (health.ok()) break;
  }
  return health;
}

std::string Describe(const std::deque<KnownVersion>& retained) {
  if (retained.empty()) return "none is retained";
  return absl::StrCat("retained: ",
                      absl::StrJoin(retained, ", ", [](std::string* out, const auto& known) {
                        absl::StrAppend(out, known.version->number);
                      }));
}

}  // namespace

bool IsWorthRetaining(const ModelVersion& leaving, const ModelVersion* next) {
  if (next != nullptr && leaving.weights_id == next->weights_id &&
      leaving.architecture == next->architecture && leaving.config == next->config) {
    return false;
  }
  return HealthOf(leaving).ok();
}

std::vector<KnownVersion> TakeBeyond(std::deque<KnownVersion>* retained, int64_t limit) {
  std::vector<KnownVersion> taken;
  while (static_cast<int64_t>(retained->size()) > limit) {
    taken.push_back(std::move(retained->front()));
    retained->pop_front();
  }
  return taken;
}

absl::StatusOr<size_t> ChooseRollback(const std::deque<KnownVersion>& retained,
                                      const ModelVersion* live, int64_t number) {
  const int64_t most = live == nullptr ? std::numeric_limits<int64_t>::max() : live->number;
  std::optional<size_t> chosen;
  for (size_t i = 0; i < retained.size(); ++i) {
    const int64_t candidate = retained[i].version->number;
    if (number != 0 ? candidate != number : candidate > most) continue;
    // Of one number, the one that answered last.
    if (!chosen.has_value() || candidate >= retained[*chosen].version->number) chosen = i;
  }
  if (!chosen.has_value()) {
    if (number != 0) {
      return absl::NotFoundError(
          absl::StrCat("version ", number, " is not retained; ", Describe(retained)));
    }
    return absl::FailedPreconditionError(
        absl::StrCat("there is no version to go back to; ", Describe(retained)));
  }
  if (const absl::Status health = HealthOf(*retained[*chosen].version); !health.ok()) {
    return absl::FailedPreconditionError(absl::StrCat("version ", retained[*chosen].version->number,
                                                      " cannot be run: ", health.message()));
  }
  return *chosen;
}

}  // namespace sconce
