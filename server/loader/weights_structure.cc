#include "server/loader/weights_structure.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/sequential/sequential.h"
#include "server/base/about_file.h"
#include "server/base/printable.h"
#include "server/loader/golden_samples.h"
#include "server/program/choose_architecture.h"
#include "server/program/open_program.h"
#include "server/weights/load_state_dict.h"
#include "server/weights/scalar_type.h"
#include "server/weights/state_dict.h"

namespace sconce {
namespace {

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

// What the configuration says of inputs and outputs, for programs that do not say it themselves.
models::Signature DeclaredSignature(const ModelConfig& config) {
  models::Signature declared;
  declared.rows.batched = config.max_batch_size > 0;
  const auto declare = [](const std::vector<TensorSpec>& specs,
                          const std::vector<std::optional<Reshape>>& reshapes,
                          std::vector<models::TensorSpec>* out) {
    for (size_t i = 0; i < specs.size(); ++i) {
      const bool reshaped = i < reshapes.size() && reshapes[i].has_value();
      out->push_back({specs[i].name, ToScalarType(specs[i].dtype),
                      reshaped ? reshapes[i]->network : specs[i].dims, specs[i].rules});
    }
  };
  declare(config.inputs, config.execution.reshape_inputs, &declared.inputs);
  declare(config.outputs, config.execution.reshape_outputs, &declared.outputs);
  return declared;
}

// What the configuration says that is not so.
void AddConfigNotes(const ModelConfig& config, const Signature& served, std::string* provenance) {
  const int64_t rows = LargestBatch(served.rows, config.max_batch_size);
  if (served.rows.batched && rows < config.max_batch_size) {
    absl::StrAppend(provenance, "; batches of at most ", rows, " rows, which the network takes");
  }
  if (!config.without_effect.empty()) {
    absl::StrAppend(provenance, "; without effect in config.pbtxt: ",
                    absl::StrJoin(config.without_effect, ", "));
  }
}

// A package of machine code is no checkpoint, and looks like one.
absl::Status WhyNotOpened(const LoadRequest& request, const absl::Status& status) {
  const absl::StatusOr<ProgramKind> kind = ProbeProgram(request.weights_path);
  if (!kind.ok() || *kind != ProgramKind::kAotInductor) return status;
  return AboutFile(request.weights_path,
                   absl::FailedPreconditionError(
                       "an AOTInductor package, whose weights lie within machine code and "
                       "cannot be read; put them beside it, such as program.pt2 and "
                       "model.safetensors"));
}

absl::StatusOr<ArchitectureSources> SourcesOf(const LoaderParts& parts,
                                              const LoadRequest& request) {
  ArchitectureSources sources{.weights_path = request.weights_path};
  sources.program_path = request.program_path;
  sources.hugging_face_path = request.hugging_face_path;
  sources.configured = {request.config.architecture, request.config.architecture_parameters};
  if (request.config.sequential.has_value()) {
    auto declared = models::MakeSequential(*request.config.sequential);
    if (!declared.ok()) return declared.status();
    sources.declared = *std::move(declared);
  }
  sources.program = {.allow_native_code = parts.allow_native_code && !request.from_client,
                     .declared = DeclaredSignature(request.config),
                     .max_metadata_bytes = parts.checkpoint_options.max_metadata_bytes};
  return sources;
}

// A program that is another one is another network.
std::string ArchitectureText(const models::Detection& detection) {
  models::Parameters parameters = detection.parameters;
  const std::string program = detection.architecture->program_id();
  if (!program.empty()) parameters["program"] = program;
  return models::ToString(detection.architecture->name(), parameters);
}

WeightsForm FormOf(const ExecutionOptions& options) {
  WeightsForm form;
  form.channels_last = options.channels_last;
  if (options.precision == Precision::kFp16) form.floating = at::kHalf;
  if (options.precision == Precision::kBf16) form.floating = at::kBFloat16;
  return form;
}

}  // namespace

absl::StatusOr<WeightsStructure> CheckStructure(const LoaderParts& parts,
                                                const LoadRequest& request) {
  const CheckpointOptions& options = parts.checkpoint_options;
  WeightsStructure structure;
  auto checkpoint = OpenCheckpoint(request.weights_path, options);
  if (!checkpoint.ok()) return WhyNotOpened(request, checkpoint.status());
  structure.checkpoint = *std::move(checkpoint);
  const auto layout = DescribeState(*structure.checkpoint);
  if (!layout.ok()) return layout.status();
  const auto sources = SourcesOf(parts, request);
  if (!sources.ok()) return sources.status();
  auto detection = ChooseArchitecture(layout->tensors, *sources, parts.catalog);
  if (!detection.ok()) return detection.status();
  structure.detection = *std::move(detection);

  structure.form = FormOf(request.config.execution);
  const auto net = structure.NewNet();
  if (!net.ok()) return net.status();
  const LoadOptions load_options{.strict = request.config.strict,
                                 .form = structure.form,
                                 .architecture = structure.detection.architecture.get()};
  const auto fit = FitStateDict(**net, OutlineStateDict(*structure.checkpoint), load_options);
  if (!fit.ok()) return AboutFile(request.weights_path, fit.status());
  auto signature = SignatureOf((*net)->signature(), request.config);
  if (!signature.ok()) return signature.status();
  structure.signature = *std::move(signature);
  structure.constant_bytes = (*net)->ConstantBytes();
  std::vector<size_t> uncast;
  if (request.config.execution.fold_batch_norm) {
    uncast = FoldedTensors(**net);
    structure.folding = MemoryToFold(**net, structure.form.floating);
  }
  auto plan = PlanUpload(*structure.checkpoint, **net, *fit, structure.form, uncast);
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
  version.architecture = ArchitectureText(structure.detection);
  version.program_id = structure.detection.architecture->program_id();
  version.provenance =
      Provenance(*structure.checkpoint, *layout, structure.detection.why, fit->keys);
  AddConfigNotes(request.config, structure.signature.served, &version.provenance);
  version.weights_path = request.weights_path;
  version.weights_bytes = layout->size_bytes;
  version.signature = structure.signature.served;
  version.config = request.config;
  return structure;
}

}  // namespace sconce
