#include "server/loader/weights_structure.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/loader/golden_samples.h"
#include "server/weights/load_state_dict.h"
#include "server/weights/state_dict.h"

namespace sconce {
namespace {

// A status that names the file.
absl::Status About(const LoadRequest& request, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(Printable(request.weights_path), ": ",
                                                  std::string(status.message())));
}

std::string Provenance(const Checkpoint& checkpoint, const StateLayout& layout,
                       const std::string& why, const IncompatibleKeys& incompatible) {
  std::string text = absl::StrCat(checkpoint.format(), ", ", layout.tensors.size(), " tensors");
  if (!checkpoint.wrapper().empty()) {
    absl::StrAppend(&text, " under '", Printable(checkpoint.wrapper()), "'");
  }
  if (!layout.stripped_prefix.empty()) {
    absl::StrAppend(&text, ", prefix '", Printable(layout.stripped_prefix), "' stripped");
  }
  absl::StrAppend(&text, "; ", why);
  if (!incompatible.missing.empty() || !incompatible.unexpected.empty()) {
    absl::StrAppend(&text, "; not strict: ", incompatible.missing.size(), " names missing, ",
                    incompatible.unexpected.size(), " unexpected");
  }
  return text;
}

WeightsForm FormOf(const ExecutionOptions& options) {
  WeightsForm form;
  form.channels_last = options.channels_last;
  if (options.precision == Precision::kFp16) form.floating = at::kHalf;
  if (options.precision == Precision::kBf16) form.floating = at::kBFloat16;
  return form;
}

}  // namespace

absl::StatusOr<WeightsStructure> CheckStructure(
    const LoadRequest& request, const CheckpointOptions& options,
    absl::Span<const models::Architecture* const> catalog) {
  WeightsStructure structure;
  auto checkpoint = OpenCheckpoint(request.weights_path, options);
  if (!checkpoint.ok()) return checkpoint.status();
  structure.checkpoint = *std::move(checkpoint);
  const auto layout = DescribeState(*structure.checkpoint);
  if (!layout.ok()) return layout.status();
  auto detection = models::Detect(
      layout->tensors, {request.config.architecture, request.config.architecture_parameters},
      catalog);
  if (!detection.ok()) return About(request, detection.status());
  structure.detection = *std::move(detection);

  const auto net = structure.NewNet();
  if (!net.ok()) return net.status();
  const LoadOptions load_options{.strict = request.config.strict,
                                 .form = FormOf(request.config.execution)};
  const auto fit = FitStateDict(**net, OutlineStateDict(*structure.checkpoint), load_options);
  if (!fit.ok()) return About(request, fit.status());
  auto signature = SignatureOf((*net)->signature(), request.config);
  if (!signature.ok()) return signature.status();
  structure.signature = *std::move(signature);
  auto plan = PlanUpload(*structure.checkpoint, **net, *fit, load_options.form);
  if (!plan.ok()) return plan.status();
  structure.plan = *std::move(plan);

  // The manifests that weights may have to have are none of the samples' business.
  const CheckpointOptions of_samples{.max_metadata_bytes = options.max_metadata_bytes};
  for (const std::string& path : request.golden_paths) {
    auto sample = ReadGoldenSample(path, of_samples, structure.signature.served,
                                   request.config.max_batch_size);
    if (!sample.ok()) return sample.status();
    structure.golden.push_back(*std::move(sample));
  }

  structure.version = std::make_unique<ModelVersion>();
  ModelVersion& version = *structure.version;
  version.model = request.model;
  version.number = request.number;
  version.architecture =
      models::ToString(structure.detection.architecture->name(), structure.detection.parameters);
  version.provenance =
      Provenance(*structure.checkpoint, *layout, structure.detection.why, fit->keys);
  version.weights_path = request.weights_path;
  version.weights_bytes = layout->size_bytes;
  version.signature = structure.signature.served;
  version.config = request.config;
  return structure;
}

}  // namespace sconce
