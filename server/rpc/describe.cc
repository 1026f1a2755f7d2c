#include "server/rpc/describe.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/base/version_state.h"
#include "server/rpc/status.h"

namespace sconce {
namespace {

// Triton's names for what runs LibTorch networks; clients show them and compare them with others.
constexpr char kPlatform[] = "pytorch_libtorch";
constexpr char kBackend[] = "pytorch";

inference::DataType DataTypeOf(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return inference::TYPE_BOOL;
    case DType::kUInt8:
      return inference::TYPE_UINT8;
    case DType::kUInt16:
      return inference::TYPE_UINT16;
    case DType::kUInt32:
      return inference::TYPE_UINT32;
    case DType::kUInt64:
      return inference::TYPE_UINT64;
    case DType::kInt8:
      return inference::TYPE_INT8;
    case DType::kInt16:
      return inference::TYPE_INT16;
    case DType::kInt32:
      return inference::TYPE_INT32;
    case DType::kInt64:
      return inference::TYPE_INT64;
    case DType::kFloat16:
      return inference::TYPE_FP16;
    case DType::kBFloat16:
      return inference::TYPE_BF16;
    case DType::kFloat32:
      return inference::TYPE_FP32;
    case DType::kFloat64:
      return inference::TYPE_FP64;
    case DType::kBytes:
      return inference::TYPE_STRING;
    default:
      return inference::TYPE_INVALID;
  }
}

void DescribeTensor(const TensorSpec& spec, bool batched,
                    inference::ModelMetadataResponse::TensorMetadata* tensor) {
  tensor->set_name(spec.name);
  tensor->set_datatype(std::string(OipDatatype(spec.dtype)));
  if (batched) tensor->add_shape(-1);
  for (const int64_t dim : spec.dims) tensor->add_shape(dim);
}

template <typename Tensor>
void DescribeTensor(const TensorSpec& spec, Tensor* tensor) {
  tensor->set_name(spec.name);
  tensor->set_data_type(DataTypeOf(spec.dtype));
  for (const int64_t dim : spec.dims) tensor->add_dims(dim);
}

template <typename To>
To Clamped(int64_t value) {
  return static_cast<To>(
      std::clamp<int64_t>(value, 0, static_cast<int64_t>(std::numeric_limits<To>::max())));
}

// One group for each device that has replicas.
void DescribeInstances(const ModelVersion& version, inference::ModelConfig* config) {
  std::map<std::string, int32_t> replicas_on;
  for (const auto& replica : version.replicas) ++replicas_on[replica->device()];
  for (const auto& [device, count] : replicas_on) {
    inference::ModelInstanceGroup* group = config->add_instance_group();
    group->set_name(device);
    group->set_count(count);
    int32_t gpu = 0;
    if (!absl::StartsWith(device, "cuda")) {
      group->set_kind(inference::ModelInstanceGroup::KIND_CPU);
    } else {
      group->set_kind(inference::ModelInstanceGroup::KIND_GPU);
      const size_t colon = device.find(':');
      if (colon != device.npos && absl::SimpleAtoi(device.substr(colon + 1), &gpu)) {
        group->add_gpus(gpu);
      }
    }
  }
}

void DescribePolicy(const VersionPolicy& policy, inference::ModelVersionPolicy* described) {
  switch (policy.kind) {
    case VersionPolicy::Kind::kLatest:
      described->mutable_latest()->set_num_versions(Clamped<uint32_t>(policy.latest));
      return;
    case VersionPolicy::Kind::kAll:
      described->mutable_all();
      return;
    case VersionPolicy::Kind::kSpecific:
      described->mutable_specific()->mutable_versions()->Add(policy.specific.begin(),
                                                             policy.specific.end());
      return;
  }
}

// Why a version that does not answer is in the index; nothing for one that is not to be there.
struct Unready {
  const char* state;
  std::string reason;
};
std::optional<Unready> UnreadyOf(const VersionRecord& record, bool is_last) {
  if (record.state < VersionState::kHeld) {
    return Unready{"LOADING",
                   absl::StrCat("on its way: ", std::string(VersionStateName(record.state)))};
  }
  if (record.state == VersionState::kHeld) {
    return Unready{"UNAVAILABLE", "held: proven, and waits to be promoted"};
  }
  if (record.state == VersionState::kRejected && is_last) {
    return Unready{"UNAVAILABLE", absl::StrCat("rejected: ", record.error)};
  }
  return std::nullopt;
}

void DescribeDuration(const CountAndTime& time, inference::StatisticDuration* duration) {
  duration->set_count(time.count);
  duration->set_ns(static_cast<uint64_t>(time.total.count()));
}

}  // namespace

inference::ModelMetadataResponse DescribeMetadata(const ModelVersion& version,
                                                  const std::vector<int64_t>& numbers) {
  inference::ModelMetadataResponse metadata;
  metadata.set_name(version.model);
  for (const int64_t number : numbers) metadata.add_versions(absl::StrCat(number));
  metadata.set_platform(kPlatform);
  const bool batched = version.signature.rows.batched;
  for (const TensorSpec& spec : version.signature.inputs) {
    DescribeTensor(spec, batched, metadata.add_inputs());
  }
  for (const TensorSpec& spec : version.signature.outputs) {
    DescribeTensor(spec, batched, metadata.add_outputs());
  }
  (*metadata.mutable_properties())["weights_id"] = version.weights_id;
  (*metadata.mutable_properties())["architecture"] = version.architecture;
  return metadata;
}

inference::ModelConfig DescribeConfig(const ModelVersion& version) {
  inference::ModelConfig config;
  config.set_name(version.model);
  config.set_platform(kPlatform);
  config.set_backend(kBackend);
  DescribePolicy(version.config.version_policy, config.mutable_version_policy());
  // 0: there is no batch dimension.
  const bool batched = version.signature.rows.batched;
  config.set_max_batch_size(Clamped<int32_t>(batched ? version.max_batch_rows() : 0));
  for (const TensorSpec& spec : version.signature.inputs) {
    inference::ModelInput* input = config.add_input();
    DescribeTensor(spec, input);
    input->set_optional(spec.rules.absent.has_value());
  }
  for (const TensorSpec& spec : version.signature.outputs) {
    DescribeTensor(spec, config.add_output());
  }
  DescribeInstances(version, &config);
  config.set_default_model_filename(
      version.weights_path.substr(version.weights_path.find_last_of('/') + 1));
  inference::ModelQueuePolicy* queue =
      config.mutable_dynamic_batching()->mutable_default_queue_policy();
  queue->set_default_timeout_microseconds(Clamped<int64_t>(version.config.default_timeout.count()));
  queue->set_allow_timeout_override(true);
  queue->set_max_queue_size(Clamped<uint32_t>(version.config.max_queue_size));
  (*config.mutable_parameters())["architecture"].set_string_value(version.architecture);
  (*config.mutable_parameters())["weights_id"].set_string_value(version.weights_id);
  return config;
}

inference::ModelStatistics DescribeStatistics(const std::string& model, int64_t number,
                                              const StatisticsSnapshot& counts) {
  inference::ModelStatistics statistics;
  statistics.set_name(model);
  statistics.set_version(absl::StrCat(number));
  statistics.set_last_inference(
      static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                counts.last_inference.time_since_epoch())
                                .count()));
  statistics.set_inference_count(counts.inference_count);
  statistics.set_execution_count(counts.execution_count);
  inference::InferStatistics* sums = statistics.mutable_inference_stats();
  DescribeDuration(counts.success, sums->mutable_success());
  DescribeDuration(counts.fail, sums->mutable_fail());
  DescribeDuration(counts.queue, sums->mutable_queue());
  DescribeDuration(counts.compute_input, sums->mutable_compute_input());
  DescribeDuration(counts.compute_infer, sums->mutable_compute_infer());
  DescribeDuration(counts.compute_output, sums->mutable_compute_output());
  sums->mutable_cache_hit();
  sums->mutable_cache_miss();
  for (const auto& [rows, batches] : counts.by_batch_rows) {
    inference::InferBatchStatistics* batch = statistics.add_batch_stats();
    batch->set_batch_size(static_cast<uint64_t>(rows));
    DescribeDuration(batches.compute_input, batch->mutable_compute_input());
    DescribeDuration(batches.compute_infer, batch->mutable_compute_infer());
    DescribeDuration(batches.compute_output, batch->mutable_compute_output());
  }
  return statistics;
}

std::vector<inference::RepositoryIndexResponse::ModelIndex> DescribeIndex(const IndexedModel& model,
                                                                          bool only_ready) {
  using ModelIndex = inference::RepositoryIndexResponse::ModelIndex;
  std::vector<ModelIndex> entries;
  const auto add = [&](int64_t number, const char* state, const std::string& reason) {
    ModelIndex& entry = entries.emplace_back();
    entry.set_name(model.name);
    if (number != 0) entry.set_version(absl::StrCat(number));
    entry.set_state(state);
    // Reasons quote files; a string field must be UTF-8.
    entry.set_reason(MessageForWire(reason));
  };
  const Serving& serving = model.serving;
  std::set<int64_t> told;
  if (serving.live != nullptr) {
    add(serving.live->number, "READY", model.progress.last_error);
    told.insert(serving.live->number);
  } else if (!only_ready) {
    add(0, model.progress.loading ? "LOADING" : "UNAVAILABLE", model.progress.last_error);
  }
  const auto add_ready = [&](const ModelVersion& version, const std::string& reason) {
    if (told.insert(version.number).second) add(version.number, "READY", reason);
  };
  for (const auto& [number, version] : serving.others) add_ready(*version, "");
  if (serving.canary != nullptr) {
    add_ready(*serving.canary, absl::StrCat("canary: answers ", serving.canary_share,
                                            " of the batches that ask for no version"));
  }
  if (only_ready) return entries;
  for (const VersionRecord& record : model.records) {
    const auto unready = UnreadyOf(record, &record == &model.records.back());
    // A number that answers may be on its way with other weights: one entry for each number.
    if (!unready || !told.insert(record.number).second) continue;
    add(record.number, unready->state, unready->reason);
  }
  return entries;
}

}  // namespace sconce
