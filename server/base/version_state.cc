#include "server/base/version_state.h"

namespace sconce {

std::string_view VersionStateName(VersionState state) {
  switch (state) {
    case VersionState::kSeen:
      return "seen";
    case VersionState::kSettling:
      return "settling";
    case VersionState::kStructureChecked:
      return "structure_checked";
    case VersionState::kAdmitted:
      return "admitted";
    case VersionState::kRead:
      return "read";
    case VersionState::kLoaded:
      return "loaded";
    case VersionState::kPrepared:
      return "prepared";
    case VersionState::kWarmed:
      return "warmed";
    case VersionState::kChecked:
      return "checked";
    case VersionState::kHeld:
      return "held";
    case VersionState::kCanary:
      return "canary";
    case VersionState::kPublished:
      return "published";
    case VersionState::kRetained:
      return "retained";
    case VersionState::kRetired:
      return "retired";
    case VersionState::kRejected:
      return "rejected";
  }
  return "";
}

}  // namespace sconce
