#include "server/reload/following.h"

namespace sconce {

std::string_view ControlModeName(ControlMode mode) {
  switch (mode) {
    case ControlMode::kFollow:
      break;
    case ControlMode::kCommand:
      return "command";
    case ControlMode::kFixed:
      return "fixed";
  }
  return "follow";
}

bool FollowsFolder(ControlMode mode, const Wishes& wishes, const Standing& standing) {
  if (wishes.unloaded || wishes.overridden) return false;
  // A pinned model that served before a restart is brought back.
  if (wishes.pinned) return !standing.established && standing.served_before;
  switch (mode) {
    case ControlMode::kFollow:
      return true;
    case ControlMode::kCommand:
      return !standing.established && wishes.loaded_on_command;
    case ControlMode::kFixed:
      return !standing.established;
  }
  return true;
}

bool StaysWithoutFolder(ControlMode mode, const Wishes& wishes, const Standing& standing) {
  return standing.serves && (mode != ControlMode::kFollow || wishes.pinned || wishes.overridden);
}

bool IsAwaited(ControlMode mode, const Wishes& wishes) {
  if (wishes.unloaded) return false;
  return mode != ControlMode::kCommand || wishes.loaded_on_command;
}

}  // namespace sconce
