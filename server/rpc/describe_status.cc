#include "server/rpc/describe_status.h"

#include <chrono>

#include "server/base/version_state.h"
#include "server/rpc/status.h"

namespace sconce {
namespace {

using admin::v1::AnsweringVersion;

void DescribeTime(std::chrono::system_clock::time_point time, google::protobuf::Timestamp* out) {
  const auto since_epoch = time.time_since_epoch();
  // Rounded down, so that the rest is not negative, as a timestamp wants it.
  const auto seconds = std::chrono::floor<std::chrono::seconds>(since_epoch);
  out->set_seconds(seconds.count());
  out->set_nanos(static_cast<int32_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(since_epoch - seconds).count()));
}

AnsweringVersion* AddAnswering(const ModelVersion& version, AnsweringVersion::Role role,
                               double share, admin::v1::ModelStatus* model) {
  AnsweringVersion* answering = model->add_answering();
  answering->set_number(version.number);
  answering->set_role(role);
  answering->set_weights_id(version.weights_id);
  answering->set_architecture(MessageForWire(version.architecture));
  answering->set_share(share);
  return answering;
}

void DescribeTrial(const VersionCounts& counts, admin::v1::Trial* trial) {
  trial->set_requests(counts.requests);
  trial->set_failed(counts.failed);
  trial->set_non_finite_batches(counts.non_finite);
}

void DescribeServing(const Serving& serving, admin::v1::ModelStatus* model) {
  const double canary_share = serving.canary == nullptr ? 0 : serving.canary_share;
  if (serving.live != nullptr) {
    AnsweringVersion* live =
        AddAnswering(*serving.live, AnsweringVersion::ROLE_LIVE, 1 - canary_share, model);
    if (serving.trial != nullptr) DescribeTrial(serving.trial->live(), live->mutable_trial());
  }
  if (serving.canary != nullptr) {
    AnsweringVersion* canary =
        AddAnswering(*serving.canary, AnsweringVersion::ROLE_CANARY, canary_share, model);
    if (serving.trial != nullptr) DescribeTrial(serving.trial->canary(), canary->mutable_trial());
  }
  for (const auto& [number, version] : serving.others) {
    AddAnswering(*version, AnsweringVersion::ROLE_BY_NUMBER, 0, model);
  }
}

void DescribeRecord(const VersionRecord& record, admin::v1::Version* version) {
  version->set_number(record.number);
  version->set_state(std::string(VersionStateName(record.state)));
  DescribeTime(record.since, version->mutable_since());
  version->set_weights_path(MessageForWire(record.weights_path));
  version->set_weights_id(record.weights_id);
  version->set_weights_bytes(record.weights_bytes);
  version->set_shared_bytes(record.shared_bytes);
  version->set_error(MessageForWire(record.error));
  for (const PreparedDeviation& deviation : record.deviations) {
    admin::v1::PreparedDeviation* prepared = version->add_prepared();
    prepared->set_device(deviation.device);
    prepared->set_absolute(deviation.absolute);
    prepared->set_relative(deviation.relative);
    prepared->set_not_measured(MessageForWire(deviation.not_measured));
  }
}

const char* SwapModeName(SwapMode mode) {
  switch (mode) {
    case SwapMode::kBeside:
      break;
    case SwapMode::kInPlaceIfNeeded:
      return "IN_PLACE_IF_NEEDED";
    case SwapMode::kInPlace:
      return "IN_PLACE";
  }
  return "BESIDE";
}

}  // namespace

admin::v1::ModelStatus DescribeStatus(const ModelStatus& status) {
  admin::v1::ModelStatus model;
  model.set_name(MessageForWire(status.model));
  model.set_pinned(status.pinned);
  model.set_unloaded(status.unloaded);
  model.set_inline_weights(status.inline_weights);
  DescribeServing(status.serving, &model);
  for (const VersionRecord& record : status.versions) DescribeRecord(record, model.add_versions());
  model.set_last_error(MessageForWire(status.last_error));
  if (status.serving.live != nullptr) {
    const ModelConfig& config = status.serving.live->config;
    admin::v1::Settings* settings = model.mutable_settings();
    settings->set_swap_mode(SwapModeName(config.swap));
    settings->set_promotion(config.manual_promotion ? "MANUAL" : "AUTOMATIC");
    settings->set_retain_versions(config.retained_versions);
    settings->set_canary_share(config.canary.share);
  }
  return model;
}

}  // namespace sconce
