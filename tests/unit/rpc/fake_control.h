// A repository's control that does nothing, remembers what it was asked, and says what it is told.

#ifndef SCONCE_TESTS_UNIT_RPC_FAKE_CONTROL_H_
#define SCONCE_TESTS_UNIT_RPC_FAKE_CONTROL_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/registry/repository_control.h"

namespace sconce {

// Of a model of which nothing is known but its name.
inline ModelStatus StatusOf(std::string model) {
  ModelStatus status;
  status.model = std::move(model);
  return status;
}

class FakeControl : public RepositoryControl {
 public:
  absl::Status Load(const std::string& model, LoadOverrides given) override {
    overrides = std::move(given);
    return Note(absl::StrCat("load ", model));
  }
  absl::Status Unload(const std::string& model) override {
    return Note(absl::StrCat("unload ", model));
  }
  absl::StatusOr<int64_t> Rollback(const std::string& model, int64_t number) override {
    absl::Status noted = Note(absl::StrCat("rollback ", model, " ", number));
    if (!noted.ok()) return noted;
    return answers;
  }
  absl::StatusOr<int64_t> Promote(const std::string& model, int64_t number) override {
    absl::Status noted = Note(absl::StrCat("promote ", model, " ", number));
    if (!noted.ok()) return noted;
    return answers;
  }
  absl::Status SetPinned(const std::string& model, bool pinned) override {
    return Note(absl::StrCat(pinned ? "pin " : "unpin ", model));
  }
  absl::StatusOr<std::vector<ModelStatus>> Status(const std::string& model) override {
    if (!status_result.ok()) return status_result;
    std::vector<ModelStatus> of;
    for (const ModelStatus& status : models) {
      if (model.empty() || status.model == model) of.push_back(status);
    }
    if (of.empty() && !model.empty()) return absl::NotFoundError("there is no such model");
    return of;
  }

  // What was asked, as "rollback m 3".
  std::vector<std::string> asked;
  LoadOverrides overrides;
  // What all but Status say, ...
  absl::Status result;
  int64_t answers = 0;
  // ... and what Status does.
  absl::Status status_result;
  std::vector<ModelStatus> models;

 private:
  absl::Status Note(std::string what) {
    asked.push_back(std::move(what));
    return result;
  }
};

}  // namespace sconce

#endif  // SCONCE_TESTS_UNIT_RPC_FAKE_CONTROL_H_
