#include "server/reload/compatibility.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "server/base/printable.h"

namespace sconce {
namespace {

absl::string_view FamilyOf(absl::string_view architecture) {
  return architecture.substr(0, architecture.find('('));
}

std::string Describe(const std::vector<TensorSpec>& specs) {
  return absl::StrJoin(specs, ", ", [](std::string* out, const TensorSpec& spec) {
    absl::StrAppend(out, Printable(spec.name), " ", SpecString(spec));
  });
}

std::string Describe(const ModelVersion& version) {
  return absl::StrCat(Printable(version.architecture), " (", Describe(version.signature.inputs),
                      " -> ", Describe(version.signature.outputs), ")");
}

}  // namespace

absl::Status CheckReplaces(const ModelVersion& live, const ModelVersion& next) {
  if (FamilyOf(live.architecture) == FamilyOf(next.architecture) &&
      live.signature == next.signature) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("clients are served ", Describe(live), ", the file is ", Describe(next),
                   "; RepositoryModelLoad or a change of config.pbtxt accepts it"));
}

}  // namespace sconce
