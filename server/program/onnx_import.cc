#include "server/program/onnx_import.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <exception>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "models/program/graph_net.h"
#include "models/renamed_architecture.h"
#include "server/base/file.h"
#include "server/base/printable.h"
#include "server/checkpoint/checkpoint.h"
#include "server/checkpoint/error_context.h"
#include "server/checkpoint/onnx/onnx_graph.h"
#include "server/program/graph_id.h"
#include "server/program/onnx_builder.h"
#include "server/weights/key_normalisation.h"
#include "server/weights/scalar_type.h"
#include "server/weights/state_dict.h"

namespace sconce {
namespace {

// Between them no operator that is imported has changed its meaning, but for what is looked at.
constexpr int64_t kLowestOpset = 13;
constexpr int64_t kHighestOpset = 23;

// What a constant may take; weights are not read here.
constexpr int64_t kMaxConstantBytes = int64_t{256} << 20;

class Importer {
 public:
  Importer(const Checkpoint& checkpoint, const OnnxGraph& source)
      : checkpoint_(checkpoint),
        prefix_(StrippedPrefixOf(checkpoint)),
        source_(source),
        builder_(graph_) {}

  absl::StatusOr<models::Graph> Run() {
    absl::Status done = CheckVersions();
    if (done.ok()) done = AddInitialisers();
    if (done.ok()) done = AddInputs();
    if (done.ok()) done = AddNodes();
    if (done.ok()) done = AddOutputs();
    if (!done.ok()) return done;
    graph_.class_name = source_.name.empty() ? "ONNX" : source_.name;
    return std::move(graph_);
  }

  // Initialisers that are no weights, as the weights reader calls them.
  std::set<std::string> TakeConstants() { return std::move(constants_); }

 private:
  absl::Status CheckVersions() {
    const auto own = source_.opsets.find("");
    opset_ = own == source_.opsets.end() ? 0 : own->second;
    if (opset_ < kLowestOpset || opset_ > kHighestOpset) {
      return absl::UnimplementedError(absl::StrCat("opset ", opset_, ": expected ", kLowestOpset,
                                                   " to ", kHighestOpset,
                                                   ", others are not supported"));
    }
    if (!source_.functions.empty()) {
      return absl::UnimplementedError(absl::StrCat("the model has operators of its own ('",
                                                   Printable(source_.functions[0]),
                                                   "'), which is not supported"));
    }
    return absl::OkStatus();
  }

  // Initialisers that say how something is done, though they are fractions.
  std::set<std::string> Settings() const {
    std::set<std::string> names;
    for (const OnnxNode& node : source_.nodes) {
      if (node.op_type != "Resize" && node.op_type != "Clip" && node.op_type != "Pad") continue;
      names.insert(node.inputs.begin() + (node.inputs.empty() ? 0 : 1), node.inputs.end());
    }
    return names;
  }

  absl::Status AddInitialisers() {
    if (!checkpoint_.non_tensors().empty()) {
      const NonTensorEntry& entry = checkpoint_.non_tensors()[0];
      return absl::UnimplementedError(absl::StrCat("initializer '", Printable(entry.name),
                                                   "' is a ", entry.type_name,
                                                   ", which is not supported"));
    }
    const std::set<std::string> settings = Settings();
    int64_t left = kMaxConstantBytes;
    for (const TensorDescriptor& tensor : checkpoint_.tensors()) {
      const c10::ScalarType type = ToScalarType(tensor.dtype);
      const std::string name = tensor.name.substr(prefix_.size());
      OnnxValue value{
          .dtype = type, .rank = static_cast<int64_t>(tensor.shape.size()), .shape = tensor.shape};
      if (c10::isFloatingType(type) && !tensor.shape.empty() && !settings.contains(tensor.name)) {
        value.is_weight = true;
        value.tensor = graph_.AddValue(tensor.name);
        graph_.weights.push_back({name, value.tensor, type, tensor.shape, /*is_parameter=*/true});
      } else {
        if (tensor.size_bytes() > left) {
          return Refused("expected at most ", kMaxConstantBytes, " bytes of constants, got more");
        }
        left -= tensor.size_bytes();
        at::Tensor constant = at::empty(tensor.shape, type);
        absl::Status read = checkpoint_.ReadInto(
            tensor, absl::MakeSpan(static_cast<std::byte*>(constant.mutable_data_ptr()),
                                   static_cast<size_t>(tensor.size_bytes())));
        if (!read.ok()) return read;
        value.constant = std::move(constant);
        constants_.insert(name);
      }
      builder_.Define(tensor.name, std::move(value));
    }
    return absl::OkStatus();
  }

  models::SizeExpression SizeOf(const OnnxDim& dim, bool may_add) {
    if (dim.value.has_value()) return models::SizeExpression::Constant(*dim.value);
    const auto known = symbols_.find(dim.parameter);
    if (!dim.parameter.empty() && known != symbols_.end()) {
      return models::SizeExpression::OfSymbol(known->second);
    }
    if (!may_add) return models::SizeExpression::Unknown();
    const auto symbol = static_cast<int32_t>(graph_.symbols.size());
    graph_.symbols.push_back(
        {.name = dim.parameter.empty() ? absl::StrCat("size ", symbol) : dim.parameter});
    if (!dim.parameter.empty()) symbols_.emplace(dim.parameter, symbol);
    return models::SizeExpression::OfSymbol(symbol);
  }

  absl::Status CheckTyped(const OnnxValueInfo& info, const char* kind) {
    if (info.dtype.has_value()) return absl::OkStatus();
    return absl::UnimplementedError(absl::StrCat(kind, " '", Printable(info.name),
                                                 "': expected a tensor, got ", info.type_name,
                                                 ", which is not supported"));
  }

  absl::Status AddInputs() {
    for (const OnnxValueInfo& info : source_.inputs) {
      if (builder_.Find(info.name) != nullptr) continue;  // an initialiser that may be given
      if (absl::Status typed = CheckTyped(info, "input"); !typed.ok()) return typed;
      if (!info.dims.has_value()) {
        return absl::UnimplementedError(absl::StrCat("input '", Printable(info.name),
                                                     "': how many dimensions it has is not said"));
      }
      const c10::ScalarType type = ToScalarType(*info.dtype);
      models::GraphInput input{info.name, graph_.AddValue(info.name), type, {}};
      for (const OnnxDim& dim : *info.dims) input.sizes.push_back(SizeOf(dim, /*may_add=*/true));
      builder_.Define(info.name, {.tensor = input.value,
                                  .dtype = type,
                                  .rank = static_cast<int64_t>(info.dims->size()),
                                  .input = input.value});
      graph_.inputs.push_back(std::move(input));
    }
    return absl::OkStatus();
  }

  absl::Status AddNodes() {
    for (size_t i = 0; i < source_.nodes.size(); ++i) {
      const OnnxNode& node = source_.nodes[i];
      const std::string where = absl::StrCat(
          "node ",
          node.name.empty() ? absl::StrCat(i) : absl::StrCat("'", Printable(node.name), "'"), " (",
          Printable(node.op_type), ")");
      OnnxCall call(builder_, node, opset_);
      try {
        ImportOperator(call);
      } catch (const std::exception& error) {
        return InContext(where, absl::InvalidArgumentError(Printable(error.what())));
      }
      if (!call.status().ok()) return InContext(where, call.status());
      for (const std::string& output : node.outputs) {
        if (output.empty() || builder_.Find(output) != nullptr) continue;
        return absl::UnimplementedError(
            absl::StrCat(where, ": the output '", Printable(output), "' is not supported"));
      }
    }
    return absl::OkStatus();
  }

  absl::Status AddOutputs() {
    for (const OnnxValueInfo& info : source_.outputs) {
      if (absl::Status typed = CheckTyped(info, "output"); !typed.ok()) return typed;
      OnnxValue* value = builder_.Find(info.name);
      if (value == nullptr) {
        return Refused("output '", Printable(info.name), "': expected a value, got none");
      }
      models::GraphOutput output{
          info.name, builder_.TensorOf(info.name, *value), ToScalarType(*info.dtype), {}};
      const std::vector<OnnxDim> dims =
          info.dims.value_or(std::vector<OnnxDim>(static_cast<size_t>(value->rank)));
      for (const OnnxDim& dim : dims) output.sizes.push_back(SizeOf(dim, /*may_add=*/false));
      graph_.outputs.push_back(std::move(output));
    }
    return absl::OkStatus();
  }

  const Checkpoint& checkpoint_;
  const std::string prefix_;
  const OnnxGraph& source_;
  models::Graph graph_;
  OnnxBuilder builder_;
  std::map<std::string, int32_t> symbols_;
  std::set<std::string> constants_;
  int64_t opset_ = 0;
};

absl::StatusOr<std::shared_ptr<const models::Architecture>> Import(const std::string& path,
                                                                   const ProgramOptions& options) {
  const absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  const auto checkpoint = OpenCheckpoint(path, {.max_metadata_bytes = options.max_metadata_bytes});
  if (!checkpoint.ok()) return checkpoint.status();
  const absl::StatusOr<OnnxGraph> source = ReadOnnxGraph(*file, options.max_metadata_bytes);
  if (!source.ok()) return source.status();
  Importer importer(**checkpoint, *source);
  absl::StatusOr<models::Graph> graph = importer.Run();
  for (const absl::Status& same : {file->CheckUnchanged(), (*checkpoint)->CheckUnchanged()}) {
    if (!same.ok()) return same;
  }
  if (!graph.ok()) return graph.status();
  std::string id = GraphId(*graph);
  auto architecture = models::ArchitectureOf("onnx", std::move(id), *std::move(graph));
  if (!architecture.ok()) return architecture.status();
  // The executor knows nothing of the names that the weights reader has for constants.
  return models::Renamed(
      *std::move(architecture),
      [constants = importer.TakeConstants()](const std::string& saved) -> std::string {
        // A counter of batch norm's, which no exporter keeps.
        if (saved.ends_with("num_batches_tracked")) return "";
        return constants.contains(saved) ? "" : saved;
      });
}

}  // namespace

absl::StatusOr<std::shared_ptr<const models::Architecture>> OpenOnnxProgram(
    const std::string& path, const ProgramOptions& options) {
  auto architecture = Import(path, options);
  if (architecture.ok()) return architecture;
  const std::string message(architecture.status().message());
  if (message.rfind(Printable(path), 0) == 0) return architecture.status();
  return InContext(Printable(path), architecture.status());
}

}  // namespace sconce
