#include "server/rpc/lookup.h"

#include <algorithm>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/printable.h"
#include "server/base/version_state.h"

namespace sconce {

absl::StatusOr<std::shared_ptr<Model>> FindModel(const Registry& registry,
                                                 const std::string& name) {
  std::shared_ptr<Model> model = registry.Find(name);
  if (model == nullptr) {
    return absl::NotFoundError(absl::StrCat("there is no model '", Printable(name), "'"));
  }
  return model;
}

absl::StatusOr<int64_t> ParseVersion(const std::string& version) {
  if (version.empty()) return 0;
  int64_t number = 0;
  if (version.find_first_not_of("0123456789") != version.npos ||
      !absl::SimpleAtoi(version, &number) || number < 1) {
    return absl::InvalidArgumentError(absl::StrCat("model version '", Printable(version, 32),
                                                   "': expected a number from 1 on, or nothing "
                                                   "for the version that answers now"));
  }
  return number;
}

absl::StatusOr<std::shared_ptr<const ModelVersion>> PinVersion(const Model& model, int64_t wanted) {
  std::shared_ptr<const ModelVersion> version = wanted == 0 ? model.Pin() : model.Pin(wanted);
  if (version != nullptr) return version;
  const std::vector<int64_t> answering = AnsweringNumbers(model.serving());
  if (wanted == 0 || answering.empty()) {
    const Model::Progress progress = model.progress();
    return absl::UnavailableError(absl::StrCat("model '", model.name(), "' is not ready: ",
                                               !progress.last_error.empty() ? progress.last_error
                                               : progress.loading           ? "it is being loaded"
                                                                            : "it is not loaded"));
  }
  const std::vector<VersionRecord> records = model.records();
  const auto known =
      std::find_if(records.rbegin(), records.rend(),
                   [wanted](const VersionRecord& record) { return record.number == wanted; });
  return absl::NotFoundError(absl::StrCat(
      "model '", model.name(), "' has no version ", wanted,
      known == records.rend()
          ? std::string()
          : absl::StrCat(" that answers (it is ", std::string(VersionStateName(known->state)), ")"),
      ", it serves version", answering.size() == 1 ? " " : "s ", absl::StrJoin(answering, ", ")));
}

std::vector<int64_t> AnsweringNumbers(const Serving& serving) {
  std::set<int64_t> numbers;
  if (serving.live != nullptr) numbers.insert(serving.live->number);
  if (serving.canary != nullptr) numbers.insert(serving.canary->number);
  for (const auto& [number, version] : serving.others) numbers.insert(number);
  return {numbers.begin(), numbers.end()};
}

}  // namespace sconce
