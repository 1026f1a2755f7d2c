// The state file: what a server has to know after a restart and the repository does not tell.
// Version numbers go on, a pinned model stays pinned, a file that was refused is not tried again.
//
// JSON, one object per model. It is replaced as a whole (written beside, synced, renamed), so that
// whoever reads it, also after a crash at any moment, has the old one or the new one. Functions are
// callable from any thread; one thread at a time writes one file.

#ifndef SCONCE_SERVER_RELOAD_STATE_FILE_H_
#define SCONCE_SERVER_RELOAD_STATE_FILE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sconce {

struct SavedModel {
  // Of the version that answered last; the next new weights get a higher one.
  int64_t last_number = 0;
  std::string last_weights_id;
  bool pinned = false;
  bool unloaded = false;
  // In the mode in which models are loaded on command only: it was.
  bool loaded_on_command = false;

  // Sources that are not to be loaded again: what FingerprintText gives of them, and why.
  struct Refusal {
    std::string source;
    std::string reason;
    int status_code = 0;  // absl::StatusCode

    bool operator==(const Refusal&) const = default;
  };
  std::vector<Refusal> refused;  // the newest last; at most kMostRefusals
  static constexpr size_t kMostRefusals = 16;

  bool operator==(const SavedModel&) const = default;
};

using SavedState = std::map<std::string, SavedModel>;

// An empty state where there is no such file. INVALID_ARGUMENT, saying where, for one that this
// version of the server cannot have written; what cannot be read is UNAVAILABLE. At most 16 MiB are
// read.
absl::StatusOr<SavedState> ReadStateFile(const std::string& path);

// UNAVAILABLE with the reason where the file cannot be written; the old one is then still whole, or
// the new one is, where only the folder could not be brought to the disk.
absl::Status WriteStateFile(const std::string& path, const SavedState& state);

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_STATE_FILE_H_
