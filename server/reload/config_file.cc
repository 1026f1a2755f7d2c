#include "server/reload/config_file.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "proto/model_config.pb.h"
#include "server/base/dtype.h"
#include "server/base/file.h"
#include "server/base/printable.h"

namespace sconce {
namespace {

using Locations = google::protobuf::TextFormat::ParseInfoTree;

constexpr int64_t kMaxFileBytes = int64_t{1} << 20;
constexpr int kMaxTensors = 64;
constexpr int kMaxDims = 16;
// Of one row of one tensor, unknown dimensions left out.
constexpr int64_t kMaxElements = int64_t{1} << 40;
constexpr int32_t kMaxBatchSize = 65536;
constexpr int32_t kMaxInstances = 64;
constexpr int32_t kMaxGpu = 127;
constexpr uint32_t kMaxQueueSize = 1'000'000;
constexpr uint64_t kMaxTimeoutMicroseconds = 24ull * 3600 * 1'000'000;

// Lines and columns count from 0, as protobuf has them; -1 where there is none.
absl::Status ErrorAt(int line, int column, const std::string& message) {
  const std::string where = line < 0
                                ? std::string("config.pbtxt: ")
                                : absl::StrCat("config.pbtxt:", line + 1, ":", column + 1, ": ");
  return absl::InvalidArgumentError(where + message);
}

// Keeps the first error; those that follow are mostly its consequences.
class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, google::protobuf::io::ColumnNumber column,
                const std::string& message) override {
    if (status_.ok()) status_ = ErrorAt(line, column, Printable(message));
  }
  void AddWarning(int, google::protobuf::io::ColumnNumber, const std::string&) override {}

  const absl::Status& status() const { return status_; }

 private:
  absl::Status status_;
};

// A message and the places at which its fields stand in the file.
template <typename Message>
class Located {
 public:
  Located(const Message& message, const Locations* places) : message_(message), places_(places) {}

  const Message& operator*() const { return message_; }
  const Message* operator->() const { return &message_; }

  // `index` counts the values of a repeated field.
  absl::Status Error(int number, const std::string& what, int index = kSingular) const {
    const google::protobuf::FieldDescriptor* field = Field(number);
    google::protobuf::TextFormat::ParseLocation place;
    // A list in brackets has one place for all its values.
    for (int i = index; places_ != nullptr && place.line < 0 && i >= (index < 0 ? -1 : 0); --i) {
      place = places_->GetLocation(field, i);
    }
    return ErrorAt(place.line, place.column, absl::StrCat(field->name(), ": ", what));
  }

  template <typename Nested>
  Located<Nested> Inside(int number, const Nested& nested, int index = kSingular) const {
    return Located<Nested>(
        nested, places_ == nullptr ? nullptr : places_->GetTreeForNested(Field(number), index));
  }

 private:
  static constexpr int kSingular = -1;

  static const google::protobuf::FieldDescriptor* Field(int number) {
    return Message::descriptor()->FindFieldByNumber(number);
  }

  const Message& message_;
  const Locations* places_;
};

template <typename Number>
std::string ExpectedRange(Number low, Number high, Number got) {
  return absl::StrCat("expected ", low, " to ", high, ", got ", got);
}

std::optional<DType> ToDType(config::DataType type) {
  switch (type) {
    case config::TYPE_BOOL:
      return DType::kBool;
    case config::TYPE_UINT8:
      return DType::kUInt8;
    case config::TYPE_UINT16:
      return DType::kUInt16;
    case config::TYPE_UINT32:
      return DType::kUInt32;
    case config::TYPE_UINT64:
      return DType::kUInt64;
    case config::TYPE_INT8:
      return DType::kInt8;
    case config::TYPE_INT16:
      return DType::kInt16;
    case config::TYPE_INT32:
      return DType::kInt32;
    case config::TYPE_INT64:
      return DType::kInt64;
    case config::TYPE_FP16:
      return DType::kFloat16;
    case config::TYPE_FP32:
      return DType::kFloat32;
    case config::TYPE_FP64:
      return DType::kFloat64;
    case config::TYPE_BF16:
      return DType::kBFloat16;
    default:
      return std::nullopt;
  }
}

absl::StatusOr<std::vector<int64_t>> CheckDims(const Located<config::ModelTensor>& tensor) {
  constexpr int kField = config::ModelTensor::kDimsFieldNumber;
  if (tensor->dims_size() > kMaxDims) {
    return tensor.Error(kField,
                        absl::StrCat("expected at most ", kMaxDims, ", got ", tensor->dims_size()),
                        kMaxDims);
  }
  std::vector<int64_t> dims;
  int64_t elements = 1;
  for (int i = 0; i < tensor->dims_size(); ++i) {
    const int64_t dim = tensor->dims(i);
    if (dim != -1 && dim < 1) {
      return tensor.Error(kField, absl::StrCat("expected a size, or -1 for any size, got ", dim),
                          i);
    }
    if (dim > kMaxElements / elements) {
      return tensor.Error(kField,
                          absl::StrCat("expected at most ", kMaxElements,
                                       " elements in a row, got ", elements, " x ", dim),
                          i);
    }
    if (dim > 0) elements *= dim;
    dims.push_back(dim);
  }
  return dims;
}

// `number` says whether these are the inputs or the outputs.
absl::StatusOr<std::vector<TensorSpec>> CheckTensors(
    const Located<config::ModelConfig>& config, int number,
    const google::protobuf::RepeatedPtrField<config::ModelTensor>& messages) {
  std::vector<TensorSpec> specs;
  std::set<std::string> names;
  for (int i = 0; i < messages.size(); ++i) {
    if (i == kMaxTensors) {
      return config.Error(
          number, absl::StrCat("expected at most ", kMaxTensors, ", got ", messages.size()), i);
    }
    const Located<config::ModelTensor> tensor = config.Inside(number, messages[i], i);
    TensorSpec spec;
    spec.name = tensor->name();
    if (spec.name.empty()) return config.Error(number, "expected a name, got none", i);
    if (Printable(spec.name) != spec.name) {
      return tensor.Error(
          config::ModelTensor::kNameFieldNumber,
          absl::StrCat("expected a short printable name, got '", Printable(spec.name), "'"));
    }
    if (!names.insert(spec.name).second) {
      return tensor.Error(config::ModelTensor::kNameFieldNumber,
                          absl::StrCat("'", Printable(spec.name), "' is given twice"));
    }
    const std::optional<DType> dtype = ToDType(tensor->data_type());
    if (!dtype.has_value()) {
      return config.Error(
          number,
          absl::StrCat("expected a data_type such as TYPE_FP32 for '", Printable(spec.name),
                       "', got ", tensor->has_data_type() ? "TYPE_INVALID" : "none"),
          i);
    }
    spec.dtype = *dtype;
    absl::StatusOr<std::vector<int64_t>> dims = CheckDims(tensor);
    if (!dims.ok()) return dims.status();
    spec.dims = *std::move(dims);
    specs.push_back(std::move(spec));
  }
  return specs;
}

absl::StatusOr<InstanceGroup> CheckInstances(const Located<config::ModelInstanceGroup>& group) {
  using Message = config::ModelInstanceGroup;
  InstanceGroup instances;
  if (group->has_count()) {
    if (group->count() < 1 || group->count() > kMaxInstances) {
      return group.Error(Message::kCountFieldNumber,
                         ExpectedRange(1, kMaxInstances, group->count()));
    }
    instances.count = group->count();
  }
  if (group->kind() == Message::KIND_CPU) {
    if (group->gpus_size() > 0) {
      return group.Error(Message::kGpusFieldNumber, "expected none with KIND_CPU", 0);
    }
    instances.devices = {"cpu"};
    return instances;
  }
  if (group->kind() == Message::KIND_GPU && group->gpus_size() == 0) instances.devices = {"cuda"};
  std::set<int32_t> seen;
  for (int i = 0; i < group->gpus_size(); ++i) {
    const int32_t gpu = group->gpus(i);
    if (gpu < 0 || gpu > kMaxGpu) {
      return group.Error(Message::kGpusFieldNumber, ExpectedRange(0, kMaxGpu, gpu), i);
    }
    if (!seen.insert(gpu).second) {
      return group.Error(Message::kGpusFieldNumber, absl::StrCat(gpu, " is given twice"), i);
    }
    instances.devices.push_back(absl::StrCat("cuda:", gpu));
  }
  return instances;
}

absl::Status CheckQueuePolicy(const Located<config::ModelQueuePolicy>& policy, ModelConfig* out) {
  using Message = config::ModelQueuePolicy;
  if (policy->has_max_queue_size()) {
    if (policy->max_queue_size() < 1 || policy->max_queue_size() > kMaxQueueSize) {
      return policy.Error(Message::kMaxQueueSizeFieldNumber,
                          ExpectedRange(1u, kMaxQueueSize, policy->max_queue_size()));
    }
    out->max_queue_size = policy->max_queue_size();
  }
  if (policy->default_timeout_microseconds() > kMaxTimeoutMicroseconds) {
    return policy.Error(Message::kDefaultTimeoutMicrosecondsFieldNumber,
                        ExpectedRange(uint64_t{0}, kMaxTimeoutMicroseconds,
                                      policy->default_timeout_microseconds()));
  }
  out->default_timeout =
      std::chrono::microseconds(static_cast<int64_t>(policy->default_timeout_microseconds()));
  return absl::OkStatus();
}

// The name of a file in the model's folder, and nothing that leads out of it.
bool IsFileName(const std::string& name) {
  return !name.empty() && name.size() <= 255 && name.front() != '.' &&
         name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
}

absl::Status CheckWeightsAndArchitecture(const Located<config::ModelConfig>& config,
                                         ModelConfig* out) {
  using Message = config::ModelConfig;
  if (config->has_weights()) {
    if (!IsFileName(config->weights())) {
      return config.Error(Message::kWeightsFieldNumber,
                          absl::StrCat("expected the name of a file in the model's folder, got '",
                                       Printable(config->weights()), "'"));
    }
    out->weights_file = config->weights();
  }
  if (config->has_strict()) out->strict = config->strict();
  if (config->has_architecture()) {
    const config::ModelArchitecture& architecture = config->architecture();
    if (architecture.name().empty()) {
      return config.Error(Message::kArchitectureFieldNumber, "expected a name, got none");
    }
    out->architecture = architecture.name();
    for (const auto& [key, value] : architecture.parameters()) {
      if (key.empty()) {
        return config.Inside(Message::kArchitectureFieldNumber, architecture)
            .Error(config::ModelArchitecture::kParametersFieldNumber,
                   "expected a key, got an empty one", 0);
      }
      out->architecture_parameters[key] = value;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelConfig> Check(const Located<config::ModelConfig>& config,
                                  const std::string& model) {
  using Message = config::ModelConfig;
  ModelConfig out;
  if (config->has_name() && config->name() != model) {
    return config.Error(Message::kNameFieldNumber,
                        absl::StrCat("expected the name of the folder, '", Printable(model),
                                     "', got '", Printable(config->name()), "'"));
  }
  if (config->has_max_batch_size()) {
    if (config->max_batch_size() < 1 || config->max_batch_size() > kMaxBatchSize) {
      return config.Error(Message::kMaxBatchSizeFieldNumber,
                          ExpectedRange(1, kMaxBatchSize, config->max_batch_size()));
    }
    out.max_batch_size = config->max_batch_size();
  }
  absl::StatusOr<std::vector<TensorSpec>> inputs =
      CheckTensors(config, Message::kInputFieldNumber, config->input());
  if (!inputs.ok()) return inputs.status();
  out.inputs = *std::move(inputs);
  absl::StatusOr<std::vector<TensorSpec>> outputs =
      CheckTensors(config, Message::kOutputFieldNumber, config->output());
  if (!outputs.ok()) return outputs.status();
  out.outputs = *std::move(outputs);

  if (config->instance_group_size() > 1) {
    return config.Error(Message::kInstanceGroupFieldNumber,
                        absl::StrCat("expected one, got ", config->instance_group_size()), 1);
  }
  if (config->instance_group_size() == 1) {
    absl::StatusOr<InstanceGroup> instances = CheckInstances(
        config.Inside(Message::kInstanceGroupFieldNumber, config->instance_group(0), 0));
    if (!instances.ok()) return instances.status();
    out.instances = *std::move(instances);
  }
  if (config->has_dynamic_batching()) {
    const auto batching =
        config.Inside(Message::kDynamicBatchingFieldNumber, config->dynamic_batching());
    const auto policy =
        batching.Inside(config::ModelDynamicBatching::kDefaultQueuePolicyFieldNumber,
                        batching->default_queue_policy());
    const absl::Status status = CheckQueuePolicy(policy, &out);
    if (!status.ok()) return status;
  }
  const absl::Status status = CheckWeightsAndArchitecture(config, &out);
  if (!status.ok()) return status;
  return out;
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& text, const std::string& model) {
  config::ModelConfig message;
  Locations locations;
  FirstError error;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  parser.WriteLocationsTo(&locations);
  if (!parser.ParseFromString(text, &message)) {
    return error.status().ok() ? ErrorAt(-1, -1, "is not protobuf text") : error.status();
  }
  return Check(Located<config::ModelConfig>(message, &locations), model);
}

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& path) {
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  if (file->size_bytes() > kMaxFileBytes) {
    return ErrorAt(
        -1, -1,
        absl::StrCat("expected at most ", kMaxFileBytes, " bytes, got ", file->size_bytes()));
  }
  std::string text(static_cast<size_t>(file->size_bytes()), '\0');
  absl::Status status =
      file->ReadAt(0, absl::MakeSpan(reinterpret_cast<std::byte*>(text.data()), text.size()));
  if (status.ok()) status = file->CheckUnchanged();
  if (!status.ok()) return status;
  return ParseModelConfig(text, std::filesystem::path(path).parent_path().filename().string());
}

}  // namespace sconce
