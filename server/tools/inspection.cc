#include "server/tools/inspection.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "models/catalog.h"
#include "server/base/printable.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/tied_tensors.h"
#include "server/program/choose_architecture.h"
#include "server/tools/progress.h"
#include "server/tools/tensor_parts.h"
#include "server/weights/state_dict.h"

namespace sconce::tools {
namespace {

using Json = nlohmann::ordered_json;

bool IsRunningValue(const std::string& name) {
  return absl::EndsWith(name, "running_mean") || absl::EndsWith(name, "running_var") ||
         absl::EndsWith(name, "num_batches_tracked");
}

// A sparse tensor's values are what its statistics are of, and a quantised one's integers.
const TensorDescriptor* MeasuredPart(const TensorDescriptor& tensor) {
  const TensorDescriptor* part = tensor.sparse.has_value() ? tensor.sparse->values.get() : &tensor;
  const bool computable =
      part != nullptr && (HasArithmetic(part->dtype) || part->dtype == DType::kQInt8 ||
                          part->dtype == DType::kQUInt8 || part->dtype == DType::kQInt32);
  return computable ? part : nullptr;
}

DType IntegersOf(DType dtype) {
  switch (dtype) {
    case DType::kQInt8:
      return DType::kInt8;
    case DType::kQUInt8:
      return DType::kUInt8;
    case DType::kQInt32:
      return DType::kInt32;
    default:
      return dtype;
  }
}

absl::Status Measure(const Checkpoint& checkpoint, Console& console, Inspection& inspection) {
  const std::vector<TensorDescriptor>& tensors = checkpoint.tensors();
  Progress progress(console, "reading", inspection.tensor_bytes);
  PieceReader reader(progress);
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (inspection.tied_to[i] != i) {
      inspection.statistics[i] = inspection.statistics[inspection.tied_to[i]];
      continue;
    }
    const TensorDescriptor* part = MeasuredPart(tensors[i]);
    if (part == nullptr) continue;
    StatisticsGatherer gatherer(IntegersOf(part->dtype));
    const absl::Status read =
        reader.Read(checkpoint, *part, [&](absl::Span<const std::byte> piece) {
          gatherer.Add(piece);
          return absl::OkStatus();
        });
    if (!read.ok()) return read;
    inspection.statistics[i] = gatherer.Finish();
  }
  return checkpoint.CheckUnchanged();
}

Json OrNull(const std::optional<double>& value) {
  return value.has_value() ? Json(*value) : Json();
}

const char* KindName(const TensorDescriptor& tensor) {
  switch (KindOf(tensor)) {
    case TensorKind::kSparse:
      return "sparse";
    case TensorKind::kQuantized:
      return "quantized";
    case TensorKind::kDense:
      break;
  }
  return tensor.chunks != nullptr ? "chunked" : "dense";
}

Json TensorJson(const Checkpoint& checkpoint, const Inspection& inspection, size_t i) {
  const TensorDescriptor& tensor = checkpoint.tensors()[i];
  const int64_t bytes = StoredBytes(tensor);
  const bool tied = inspection.tied_to[i] != i;
  Json json = {
      {"name", tensor.name},
      {"dtype", std::string(DTypeName(tensor.dtype))},
      {"shape", tensor.shape},
      {"kind", KindName(tensor)},
      {"size_bytes", bytes},
      {"share", inspection.tensor_bytes == 0
                    ? 0.0
                    : static_cast<double>(bytes) / static_cast<double>(inspection.tensor_bytes)},
      {"parameter", tensor.is_parameter},
      {"tied_to", tied ? Json(checkpoint.tensors()[inspection.tied_to[i]].name) : Json()}};
  if (inspection.statistics[i].has_value()) {
    const Statistics& s = *inspection.statistics[i];
    json["stats"] = {{"min", OrNull(s.min)},       {"max", OrNull(s.max)}, {"mean", OrNull(s.mean)},
                     {"std", OrNull(s.deviation)}, {"zeros", s.zeros},     {"nan", s.nans},
                     {"inf", s.infinities}};
  }
  return json;
}

Json EntriesJson(const std::vector<MetadataEntry>& entries) {
  Json json = Json::array();
  for (const MetadataEntry& entry : entries) {
    json.push_back({{"name", entry.name}, {"value", entry.value}});
  }
  return json;
}

}  // namespace

absl::StatusOr<Inspection> InspectCheckpoint(const Checkpoint& checkpoint, bool statistics,
                                             Console& console) {
  Inspection inspection;
  const absl::StatusOr<StateLayout> layout = DescribeState(checkpoint);
  if (!layout.ok()) return layout.status();
  inspection.stripped_prefix = layout->stripped_prefix;
  const auto detection = ChooseArchitecture(layout->tensors, SourcesBeside(checkpoint));
  if (detection.ok()) {
    inspection.architecture =
        models::ToString(detection->architecture->name(), detection->parameters);
    inspection.why = detection->why;
  } else {
    // The path is at the head of it all.
    const std::string path = absl::StrCat(Printable(checkpoint.path()), ": ");
    inspection.why = std::string(absl::StripPrefix(detection.status().message(), path));
  }

  for (const CheckpointFile& file : checkpoint.files()) {
    inspection.file_bytes += file.fingerprint.size_bytes;
  }
  const std::vector<TensorDescriptor>& tensors = checkpoint.tensors();
  inspection.tied_to = FirstOfSameView(tensors);
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (inspection.tied_to[i] != i) continue;
    inspection.tensor_bytes += StoredBytes(tensors[i]);
    if (!IsRunningValue(tensors[i].name)) inspection.parameters += tensors[i].num_elements();
  }
  inspection.statistics.resize(tensors.size());
  if (statistics) {
    if (absl::Status s = Measure(checkpoint, console, inspection); !s.ok()) return s;
  }
  return inspection;
}

Json ToJson(const Checkpoint& checkpoint, const Inspection& inspection) {
  Json files = Json::array();
  for (const CheckpointFile& file : checkpoint.files()) {
    files.push_back({{"path", file.path}, {"size_bytes", file.fingerprint.size_bytes}});
  }
  Json modules = Json::array();
  for (const ModuleEntry& module : checkpoint.modules()) {
    modules.push_back({{"path", module.path},
                       {"class", module.class_name},
                       {"attributes", EntriesJson(module.attributes)}});
  }
  Json tensors = Json::array();
  for (size_t i = 0; i < checkpoint.tensors().size(); ++i) {
    tensors.push_back(TensorJson(checkpoint, inspection, i));
  }
  const bool fits = !inspection.architecture.empty();
  return {{"path", checkpoint.path()},
          {"format", checkpoint.format()},
          {"producer", checkpoint.producer()},
          {"files", std::move(files)},
          {"size_bytes", inspection.file_bytes},
          {"tensor_bytes", inspection.tensor_bytes},
          {"parameters", inspection.parameters},
          {"wrapper", checkpoint.wrapper()},
          {"prefix", inspection.stripped_prefix},
          {"architecture", fits ? Json(inspection.architecture) : Json()},
          {"why", inspection.why},
          {"metadata", EntriesJson(checkpoint.metadata())},
          {"modules", std::move(modules)},
          {"tensors", std::move(tensors)}};
}

}  // namespace sconce::tools
