// Whether a model follows its folder: what the server's mode and the operator say about that. Pure
// functions of value types.

#ifndef SCONCE_SERVER_RELOAD_FOLLOWING_H_
#define SCONCE_SERVER_RELOAD_FOLLOWING_H_

#include <string_view>

namespace sconce {

enum class ControlMode {
  kFollow,   // what the folders hold is served
  kCommand,  // what an operator asks for is
  kFixed,    // what the folders held at the start is
};

// As --control has it: "follow".
std::string_view ControlModeName(ControlMode mode);

// What an operator has asked of one model.
struct Wishes {
  bool pinned = false;
  bool unloaded = false;
  // The last load brought weights or a configuration of its own.
  bool overridden = false;
  // Where models are loaded on command only: this one was.
  bool loaded_on_command = false;
};

struct Standing {
  // Once, since the start or the last unload, everything that was wanted has been loaded.
  bool established = false;
  bool serves = false;
  // A version of it has answered, be it before a restart.
  bool served_before = false;
};

// Whether a change of the folder is to be loaded without anybody asking for it.
bool FollowsFolder(ControlMode mode, const Wishes& wishes, const Standing& standing);

// Whether the model stays although its folder is gone.
bool StaysWithoutFolder(ControlMode mode, const Wishes& wishes, const Standing& standing);

// Whether a start is to wait for the model before the server is ready.
bool IsAwaited(ControlMode mode, const Wishes& wishes);

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_FOLLOWING_H_
