#include "server/reload/config_triton.h"

#include <google/protobuf/message.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/printable.h"

namespace sconce {
namespace {

using Message = config::ModelConfig;

constexpr char kPlatform[] = "pytorch_libtorch";
constexpr char kBackend[] = "pytorch";

// Parameters of Triton's PyTorch backend. `only` is the one value that is supported, where there is
// one; else any makes no difference, for that reason.
struct KnownParameter {
  const char* key;
  bool is_number = false;
  std::optional<bool> only = std::nullopt;
  const char* without_effect = "";
};
const KnownParameter kParameters[] = {
    {"INFERENCE_MODE", false, std::nullopt, "networks always run in inference mode"},
    {"DISABLE_OPTIMIZED_EXECUTION", false, std::nullopt, "programs are run as they are"},
    {"ENABLE_JIT_EXECUTOR", false, std::nullopt, "programs are run as they are"},
    {"ENABLE_JIT_PROFILING", false, std::nullopt, "programs are run as they are"},
    {"ENABLE_TENSOR_FUSER", false, std::nullopt, "programs are run as they are"},
    {"ENABLE_NVFUSER", false, std::nullopt, "programs are run as they are"},
    {"ENABLE_WEIGHT_SHARING", false, std::nullopt, "instances on a device always share weights"},
    {"ENABLE_CACHE_CLEANING", false, std::nullopt,
     "the allocator's cache is cleaned between loads"},
    {"DISABLE_CUDNN", false, false, ""},
    {"INTER_OP_THREAD_COUNT", true, std::nullopt, "threads are the server's, not a model's"},
    {"INTRA_OP_THREAD_COUNT", true, std::nullopt, "threads are the server's, not a model's"},
};

// As Triton reads it.
std::optional<bool> ToBool(const std::string& text) {
  const std::string lower = absl::AsciiStrToLower(text);
  if (lower == "true" || lower == "1") return true;
  if (lower == "false" || lower == "0") return false;
  return std::nullopt;
}

bool IsNumber(const std::string& text) {
  return !text.empty() && text.size() <= 9 &&
         text.find_first_not_of("0123456789") == std::string::npos;
}

void Note(ModelConfig* out, const std::string& what, const char* why) {
  out->without_effect.push_back(absl::StrCat(what, " (", why, ")"));
}

absl::Status CheckParameter(const Located<Message>& config, const std::string& key,
                            const std::string& value, int index, ModelConfig* out) {
  constexpr int kField = Message::kParametersFieldNumber;
  const auto known = std::find_if(std::begin(kParameters), std::end(kParameters),
                                  [&](const KnownParameter& one) { return key == one.key; });
  if (known == std::end(kParameters)) {
    return config.Error(
        kField,
        absl::StrCat("'", Printable(key), "' is not supported, expected one of ",
                     absl::StrJoin(kParameters, ", ",
                                   [](std::string* text, const KnownParameter& one) {
                                     absl::StrAppend(text, one.key);
                                   })),
        index);
  }
  const std::optional<bool> flag = ToBool(value);
  const bool sound = known->is_number ? IsNumber(value) : flag.has_value();
  if (!sound || (known->only.has_value() && flag != known->only)) {
    const char* const expected = known->is_number           ? "a number of threads"
                                 : !known->only.has_value() ? "true or false"
                                 : *known->only             ? "true"
                                                            : "false";
    return config.Error(
        kField,
        absl::StrCat("'", known->key, "': expected ", expected, ", got '", Printable(value), "'"),
        index);
  }
  if (!known->only.has_value()) Note(out, known->key, known->without_effect);
  return absl::OkStatus();
}

// In the order of the text, which the map has no more.
absl::Status CheckParameters(const Located<Message>& config, ModelConfig* out) {
  const google::protobuf::Reflection* const reflection = config->GetReflection();
  const google::protobuf::FieldDescriptor* const field =
      Message::descriptor()->FindFieldByNumber(Message::kParametersFieldNumber);
  std::vector<std::string> seen;
  for (int i = 0; i < reflection->FieldSize(*config, field); ++i) {
    const google::protobuf::Message& entry = reflection->GetRepeatedMessage(*config, field, i);
    const auto* const key_field = field->message_type()->map_key();
    const auto* const value_field = field->message_type()->map_value();
    const std::string key = entry.GetReflection()->GetString(entry, key_field);
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) {
      return config.Error(Message::kParametersFieldNumber,
                          absl::StrCat("'", Printable(key), "' is given twice"), i);
    }
    seen.push_back(key);
    const google::protobuf::Message& value = entry.GetReflection()->GetMessage(entry, value_field);
    const std::string text = value.GetReflection()->GetString(
        value,
        value.GetDescriptor()->FindFieldByNumber(config::ModelParameter::kStringValueFieldNumber));
    if (absl::Status known = CheckParameter(config, key, text, i, out); !known.ok()) return known;
  }
  return absl::OkStatus();
}

absl::Status CheckBatching(const Located<Message>& config, ModelConfig* out) {
  using Batching = config::ModelDynamicBatching;
  using Policy = config::ModelQueuePolicy;
  const auto batching =
      config.Inside(Message::kDynamicBatchingFieldNumber, config->dynamic_batching());
  if (batching->preferred_batch_size_size() > 0) {
    Note(out, "preferred_batch_size", "a free device takes what waits, up to max_batch_size");
  }
  if (batching->max_queue_delay_microseconds() > 0) {
    Note(out, "max_queue_delay_microseconds", "a free device never waits for more requests");
  }
  if (batching->preserve_ordering()) {
    return batching.Error(Batching::kPreserveOrderingFieldNumber,
                          "expected false: answers are sent when they are there");
  }
  const auto policy =
      batching.Inside(Batching::kDefaultQueuePolicyFieldNumber, batching->default_queue_policy());
  if (policy->timeout_action() == Policy::DELAY) {
    return policy.Error(Policy::kTimeoutActionFieldNumber,
                        "expected REJECT: a request that is late is given up");
  }
  if (policy->has_allow_timeout_override() && !policy->allow_timeout_override()) {
    return policy.Error(Policy::kAllowTimeoutOverrideFieldNumber,
                        "expected true: a request's own timeout counts");
  }
  return absl::OkStatus();
}

absl::Status CheckTensor(const Located<config::ModelTensor>& tensor, bool input, ModelConfig* out) {
  using Tensor = config::ModelTensor;
  const std::string of = absl::StrCat(" of '", Printable(tensor->name()), "'");
  if (tensor->format() != Tensor::FORMAT_NONE) {
    if (!input) return tensor.Error(Tensor::kFormatFieldNumber, "expected none on an output");
    Note(out, "format" + of, "dims say it");
  }
  if (tensor->has_label_filename()) {
    if (input) return tensor.Error(Tensor::kLabelFilenameFieldNumber, "expected none on an input");
    Note(out, "label_filename" + of, "classes are not told by name");
  }
  if (tensor->allow_ragged_batch()) {
    return tensor.Error(Tensor::kAllowRaggedBatchFieldNumber,
                        "expected false: requests of different sizes share a batch where the "
                        "network says how they are filled up");
  }
  if (tensor->optional()) {
    return tensor.Error(Tensor::kOptionalFieldNumber,
                        "expected false: the network says which inputs may be left out");
  }
  return absl::OkStatus();
}

absl::Status CheckName(const Located<Message>& config, int number, const std::string& expected,
                       const std::string& got) {
  if (got.empty() || got == expected) return absl::OkStatus();
  return config.Error(number, absl::StrCat("expected \"", expected, "\", got \"", Printable(got),
                                           "\", which is not supported"));
}

}  // namespace

bool IsForPyTorchBackend(const config::ModelConfig& config) {
  return config.platform() == kPlatform || config.backend() == kBackend;
}

absl::Status CheckTriton(const Located<config::ModelConfig>& config, ModelConfig* out) {
  absl::Status status =
      CheckName(config, Message::kPlatformFieldNumber, kPlatform, config->platform());
  if (status.ok()) {
    status = CheckName(config, Message::kBackendFieldNumber, kBackend, config->backend());
  }
  if (status.ok()) status = CheckParameters(config, out);
  if (status.ok()) status = CheckBatching(config, out);
  for (int i = 0; status.ok() && i < config->input_size(); ++i) {
    status = CheckTensor(config.Inside(Message::kInputFieldNumber, config->input(i), i), true, out);
  }
  for (int i = 0; status.ok() && i < config->output_size(); ++i) {
    status =
        CheckTensor(config.Inside(Message::kOutputFieldNumber, config->output(i), i), false, out);
  }
  if (!status.ok()) return status;
  if (config->response_cache().enable()) {
    return config.Inside(Message::kResponseCacheFieldNumber, config->response_cache())
        .Error(config::ModelResponseCache::kEnableFieldNumber,
               "expected false: answers are not kept");
  }
  if (config->optimization().has_input_pinned_memory() ||
      config->optimization().has_output_pinned_memory()) {
    Note(out, "pinned memory", "memory that a GPU copies from or to is page-locked");
  }
  return absl::OkStatus();
}

}  // namespace sconce
