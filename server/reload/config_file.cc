#include "server/reload/config_file.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/message.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/json_util.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "proto/model_config.pb.h"
#include "server/base/file.h"
#include "server/base/printable.h"
#include "server/reload/config_layers.h"
#include "server/reload/config_swap.h"
#include "server/reload/config_tensors.h"
#include "server/reload/config_triton.h"
#include "server/reload/located_config.h"

namespace sconce {
namespace {

constexpr int64_t kMaxBytes = int64_t{1} << 20;
constexpr int32_t kMaxBatchSize = 65536;
constexpr int kMaxInstanceGroups = 16;
constexpr int32_t kMaxInstances = 64;
constexpr int32_t kMaxGpu = 127;
constexpr uint64_t kMaxDeviceBytes = uint64_t{1} << 50;
constexpr uint32_t kMaxQueueSize = 1'000'000;
constexpr uint64_t kMaxTimeoutMicroseconds = 24ull * 3600 * 1'000'000;

// Keeps the first error; those that follow are mostly its consequences.
class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, google::protobuf::io::ColumnNumber column,
                const std::string& message) override {
    if (status_.ok()) status_ = ErrorAt(kTextConfigName, line, column, Printable(message));
  }
  void AddWarning(int, google::protobuf::io::ColumnNumber, const std::string&) override {}

  const absl::Status& status() const { return status_; }

 private:
  absl::Status status_;
};

// Numbers that no name of the enumeration has: protobuf takes them without a word.
absl::Status CheckEnums(const google::protobuf::Message& message, const char* text,
                        const ConfigPlaces* places) {
  using google::protobuf::FieldDescriptor;
  const google::protobuf::Reflection* reflection = message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const int count = field->is_repeated() ? reflection->FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      const int index = field->is_repeated() ? i : -1;
      absl::Status status;
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        const auto& nested = field->is_repeated()
                                 ? reflection->GetRepeatedMessage(message, field, i)
                                 : reflection->GetMessage(message, field);
        status = CheckEnums(nested, text,
                            places == nullptr ? nullptr : places->GetTreeForNested(field, index));
      } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
        const int number = field->is_repeated()
                               ? reflection->GetRepeatedEnumValue(message, field, i)
                               : reflection->GetEnumValue(message, field);
        if (field->enum_type()->FindValueByNumber(number) == nullptr) {
          status = ErrorOf(field,
                           absl::StrCat("expected a name such as ",
                                        field->enum_type()->value(0)->name(), ", got ", number),
                           text, places, index);
        }
      }
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<InstanceGroup> CheckInstanceGroup(const Located<config::ModelInstanceGroup>& group) {
  using Message = config::ModelInstanceGroup;
  InstanceGroup checked;
  if (group->has_count()) {
    if (group->count() < 1 || group->count() > kMaxInstances) {
      return group.Error(Message::kCountFieldNumber,
                         ExpectedRange(1, kMaxInstances, group->count()));
    }
    checked.count = group->count();
  }
  if (group->kind() == Message::KIND_GPU) checked.kind = InstanceGroup::Kind::kGpu;
  if (group->kind() == Message::KIND_CPU) {
    if (group->gpus_size() > 0) {
      return group.Error(Message::kGpusFieldNumber, "expected none with KIND_CPU", 0);
    }
    checked.kind = InstanceGroup::Kind::kCpu;
  }
  std::set<int32_t> seen;
  for (int i = 0; i < group->gpus_size(); ++i) {
    const int32_t gpu = group->gpus(i);
    if (gpu < 0 || gpu > kMaxGpu) {
      return group.Error(Message::kGpusFieldNumber, ExpectedRange(0, kMaxGpu, gpu), i);
    }
    if (!seen.insert(gpu).second) {
      return group.Error(Message::kGpusFieldNumber, absl::StrCat(gpu, " is given twice"), i);
    }
    checked.gpus.push_back(gpu);
  }
  return checked;
}

absl::Status CheckInstances(const Located<config::ModelConfig>& config, ModelConfig* out) {
  constexpr int kField = config::ModelConfig::kInstanceGroupFieldNumber;
  if (config->instance_group_size() > kMaxInstanceGroups) {
    return config.Error(kField,
                        absl::StrCat("expected at most ", kMaxInstanceGroups, ", got ",
                                     config->instance_group_size()),
                        kMaxInstanceGroups);
  }
  for (int i = 0; i < config->instance_group_size(); ++i) {
    auto group = CheckInstanceGroup(config.Inside(kField, config->instance_group(i), i));
    if (!group.ok()) return group.status();
    out->instances.push_back(*std::move(group));
  }
  return absl::OkStatus();
}

absl::Status CheckExecution(const Located<config::ModelConfig>& config, ModelConfig* out) {
  using Message = config::ModelConfig;
  switch (config->precision()) {
    case Message::TF32:
      out->execution.precision = Precision::kTf32;
      break;
    case Message::FP16:
      out->execution.precision = Precision::kFp16;
      break;
    case Message::BF16:
      out->execution.precision = Precision::kBf16;
      break;
    default:
      out->execution.precision = Precision::kFp32;
  }
  out->execution.channels_last = config->channels_last();
  out->execution.fold_batch_norm = config->fold_batch_norm();
  if (out->execution.fold_batch_norm && config->swap().mode() != config::ModelSwap::BESIDE) {
    return config.Error(Message::kFoldBatchNormFieldNumber,
                        "expected swap { mode: BESIDE } with it: folded weights are no file's, and "
                        "cannot be written over with one");
  }
  const config::ModelOptimizationPolicy::Cuda& cuda = config->optimization().cuda();
  if (cuda.has_graphs()) out->execution.graphs = cuda.graphs();
  if (config->has_device_memory_cap_bytes()) {
    const uint64_t cap = config->device_memory_cap_bytes();
    if (cap < 1 || cap > kMaxDeviceBytes) {
      return config.Error(Message::kDeviceMemoryCapBytesFieldNumber,
                          ExpectedRange(uint64_t{1}, kMaxDeviceBytes, cap));
    }
    out->device_memory_cap_bytes = static_cast<int64_t>(cap);
  }
  return absl::OkStatus();
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
  if (config->has_default_model_filename()) {
    const std::string& name = config->default_model_filename();
    if (!IsFileName(name)) {
      return config.Error(Message::kDefaultModelFilenameFieldNumber,
                          absl::StrCat("expected the name of a file in the model's folder, got '",
                                       Printable(name), "'"));
    }
    if (config->has_weights() && name != config->weights()) {
      return config.Error(
          Message::kDefaultModelFilenameFieldNumber,
          absl::StrCat("expected none beside weights, or the same, got '", Printable(name), "'"));
    }
    out->weights_file = name;
  }
  if (config->has_program()) {
    if (!IsFileName(config->program())) {
      return config.Error(Message::kProgramFieldNumber,
                          absl::StrCat("expected the name of a file in the model's folder, got '",
                                       Printable(config->program()), "'"));
    }
    out->program_file = config->program();
  }
  if (config->has_strict()) out->strict = config->strict();
  if (config->has_architecture()) {
    const config::ModelArchitecture& architecture = config->architecture();
    if (architecture.name().empty()) {
      return config.Error(Message::kArchitectureFieldNumber, "expected a name, got none");
    }
    out->architecture = architecture.name();
    const absl::Status layers =
        CheckLayers(config.Inside(Message::kArchitectureFieldNumber, architecture), out);
    if (!layers.ok()) return layers;
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

absl::StatusOr<ModelConfig> Check(const config::ModelConfig& message, const char* text,
                                  const ConfigPlaces* places, const std::string& model) {
  using Message = config::ModelConfig;
  const Located<Message> config(message, text, places);
  ModelConfig out;
  if (const absl::Status status = CheckEnums(message, text, places); !status.ok()) return status;
  if (config->has_name() && config->name() != model) {
    return config.Error(Message::kNameFieldNumber,
                        absl::StrCat("expected the name of the folder, '", Printable(model),
                                     "', got '", Printable(config->name()), "'"));
  }
  if (config->has_max_batch_size()) {
    if (config->max_batch_size() < 0 || config->max_batch_size() > kMaxBatchSize) {
      return config.Error(Message::kMaxBatchSizeFieldNumber,
                          ExpectedRange(0, kMaxBatchSize, config->max_batch_size()));
    }
    out.max_batch_size = config->max_batch_size();
  } else if (IsForPyTorchBackend(message)) {
    out.max_batch_size = 0;
  }
  if (const absl::Status status = CheckTriton(config, &out); !status.ok()) return status;
  if (const absl::Status status = CheckTensors(config, &out); !status.ok()) return status;
  if (const absl::Status status = CheckSwap(config, &out); !status.ok()) return status;
  if (const absl::Status status = CheckInstances(config, &out); !status.ok()) return status;
  if (const absl::Status status = CheckExecution(config, &out); !status.ok()) return status;
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
  ConfigPlaces places;
  FirstError error;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  parser.WriteLocationsTo(&places);
  if (!parser.ParseFromString(text, &message)) {
    return error.status().ok() ? ErrorAt(kTextConfigName, -1, -1, "is not protobuf text")
                               : error.status();
  }
  return Check(message, kTextConfigName, &places, model);
}

absl::StatusOr<ModelConfig> ParseModelConfigJson(const std::string& json,
                                                 const std::string& model) {
  if (json.size() > static_cast<size_t>(kMaxBytes)) {
    return ErrorAt(kJsonConfigName, -1, -1,
                   absl::StrCat("expected at most ", kMaxBytes, " bytes, got ", json.size()));
  }
  config::ModelConfig message;
  const auto status = google::protobuf::util::JsonStringToMessage(json, &message);
  if (!status.ok()) {
    const std::string reason(status.message().data(), status.message().size());
    return ErrorAt(kJsonConfigName, -1, -1, Printable(reason));
  }
  return Check(message, kJsonConfigName, nullptr, model);
}

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& path) {
  absl::StatusOr<File> file = File::Open(path);
  if (!file.ok()) return file.status();
  if (file->size_bytes() > kMaxBytes) {
    return ErrorAt(
        kTextConfigName, -1, -1,
        absl::StrCat("expected at most ", kMaxBytes, " bytes, got ", file->size_bytes()));
  }
  std::string text(static_cast<size_t>(file->size_bytes()), '\0');
  absl::Status status =
      file->ReadAt(0, absl::MakeSpan(reinterpret_cast<std::byte*>(text.data()), text.size()));
  if (status.ok()) status = file->CheckUnchanged();
  if (!status.ok()) return status;
  return ParseModelConfig(text, std::filesystem::path(path).parent_path().filename().string());
}

}  // namespace sconce
