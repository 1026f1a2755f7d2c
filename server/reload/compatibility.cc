#include "server/reload/compatibility.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "server/base/printable.h"
#include "server/registry/signature_rules.h"

namespace sconce {
namespace {

absl::string_view FamilyOf(absl::string_view architecture) {
  return architecture.substr(0, architecture.find('('));
}

std::string Describe(const std::vector<TensorSpec>& specs, bool batched) {
  return absl::StrJoin(specs, ", ", [batched](std::string* out, const TensorSpec& spec) {
    absl::StrAppend(out, Printable(spec.name), " ", SpecString(spec, batched));
  });
}

std::string Describe(const ModelVersion& version) {
  const bool batched = version.signature.rows.batched;
  return absl::StrCat(Printable(version.architecture), " (",
                      Describe(version.signature.inputs, batched), " -> ",
                      Describe(version.signature.outputs, batched), ")");
}

}  // namespace

absl::Status CheckReplaces(const ModelVersion& live, const ModelVersion& next) {
  std::string why = WhyIncompatible(live.signature, next.signature);
  if (why.empty() && next.max_batch_rows() < live.max_batch_rows()) {
    why = absl::StrCat("requests would have at most ", next.max_batch_rows(), " rows");
  }
  // Who replaces a program by another one wants something else to be computed.
  const bool same = FamilyOf(live.architecture) == FamilyOf(next.architecture) ||
                    (!live.program_id.empty() && !next.program_id.empty());
  if (same && why.empty()) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("clients are served ", Describe(live), ", the file is ", Describe(next),
                   why.empty() ? "" : ": ", why,
                   "; RepositoryModelLoad or a change of config.pbtxt accepts it"));
}

}  // namespace sconce
