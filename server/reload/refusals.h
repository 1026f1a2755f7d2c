// Refusals: the sources that a model is not to be loaded from again, and why: files that were
// rejected, that were rolled back, or whose canary was withdrawn. They are known by the
// fingerprints of their files, so that one is still known after others have been there in between,
// and after a restart. A value type; the number of refusals is bounded.

#ifndef SCONCE_SERVER_RELOAD_REFUSALS_H_
#define SCONCE_SERVER_RELOAD_REFUSALS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/reload/model_source.h"
#include "server/reload/state_file.h"

namespace sconce {

class Refusals {
 public:
  Refusals() = default;
  // As they were saved. What is no refusal (an OK status) is left out.
  explicit Refusals(const std::vector<SavedModel::Refusal>& saved);

  // REQUIRES: `reason` is an error. The oldest is forgotten where there are too many.
  void Add(const ModelSource& source, const absl::Status& reason);
  void Forget(const ModelSource& source);
  // Why `source` is not to be loaded; nothing where it may be.
  std::optional<absl::Status> Find(const ModelSource& source) const;

  const std::vector<SavedModel::Refusal>& saved() const { return refusals_; }

 private:
  std::vector<SavedModel::Refusal> refusals_;  // the newest last
};

}  // namespace sconce

#endif  // SCONCE_SERVER_RELOAD_REFUSALS_H_
