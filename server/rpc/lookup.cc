#include "server/rpc/lookup.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/base/printable.h"

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
  std::shared_ptr<const ModelVersion> version = model.Pin();
  if (version == nullptr) {
    const Model::Progress progress = model.progress();
    return absl::UnavailableError(absl::StrCat("model '", model.name(), "' is not ready: ",
                                               !progress.last_error.empty() ? progress.last_error
                                               : progress.loading           ? "it is being loaded"
                                                                            : "it is not loaded"));
  }
  if (wanted != 0 && wanted != version->number) {
    return absl::NotFoundError(absl::StrCat("model '", model.name(), "' has no version ", wanted,
                                            ", it serves version ", version->number));
  }
  return version;
}

}  // namespace sconce
