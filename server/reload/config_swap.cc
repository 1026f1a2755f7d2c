#include "server/reload/config_swap.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace sconce {
namespace {

constexpr uint32_t kMaxVersions = 64;
constexpr uint32_t kMaxRetained = 16;
constexpr uint32_t kMaxAgreementRequests = 10'000;
constexpr double kMaxCanarySeconds = 7 * 24 * 3600;
constexpr double kMinCanarySeconds = 0.001;
constexpr double kMaxLatencyRatio = 1000;

absl::StatusOr<std::vector<int64_t>> CheckNumbers(
    const Located<config::ModelVersionPolicy::Specific>& specific) {
  constexpr int kField = config::ModelVersionPolicy::Specific::kVersionsFieldNumber;
  constexpr int kMost = static_cast<int>(kMaxVersions);
  if (specific->versions_size() > kMost) {
    return specific.Error(
        kField, absl::StrCat("expected at most ", kMost, ", got ", specific->versions_size()),
        kMost);
  }
  std::vector<int64_t> numbers;
  for (int i = 0; i < specific->versions_size(); ++i) {
    const int64_t number = specific->versions(i);
    if (number < 1 || number > kMaxVersionNumber) {
      return specific.Error(kField, ExpectedRange(int64_t{1}, kMaxVersionNumber, number), i);
    }
    const auto place = std::lower_bound(numbers.begin(), numbers.end(), number);
    if (place != numbers.end() && *place == number) {
      return specific.Error(kField, absl::StrCat(number, " is given twice"), i);
    }
    numbers.insert(place, number);
  }
  return numbers;
}

absl::Status CheckVersionPolicy(const Located<config::ModelConfig>& config, ModelConfig* out) {
  using Message = config::ModelVersionPolicy;
  constexpr int kField = config::ModelConfig::kVersionPolicyFieldNumber;
  if (!config->has_version_policy()) return absl::OkStatus();
  const auto policy = config.Inside(kField, config->version_policy());
  switch (policy->policy_choice_case()) {
    case Message::kLatest: {
      if (!policy->latest().has_num_versions()) break;
      const uint32_t count = policy->latest().num_versions();
      if (count < 1 || count > kMaxVersions) {
        return policy.Inside(Message::kLatestFieldNumber, policy->latest())
            .Error(Message::Latest::kNumVersionsFieldNumber,
                   ExpectedRange(1u, kMaxVersions, count));
      }
      out->version_policy.latest = static_cast<int32_t>(count);
      break;
    }
    case Message::kAll:
      out->version_policy.kind = VersionPolicy::Kind::kAll;
      break;
    case Message::kSpecific: {
      auto numbers = CheckNumbers(policy.Inside(Message::kSpecificFieldNumber, policy->specific()));
      if (!numbers.ok()) return numbers.status();
      if (numbers->empty()) {
        return policy.Error(Message::kSpecificFieldNumber, "expected versions, got none");
      }
      out->version_policy.kind = VersionPolicy::Kind::kSpecific;
      out->version_policy.specific = *std::move(numbers);
      break;
    }
    case Message::POLICY_CHOICE_NOT_SET:
      return config.Error(kField, "expected latest, all or specific, got none");
  }
  return absl::OkStatus();
}

bool WantsSeveral(const VersionPolicy& policy) {
  switch (policy.kind) {
    case VersionPolicy::Kind::kLatest:
      return policy.latest > 1;
    case VersionPolicy::Kind::kAll:
      return true;
    case VersionPolicy::Kind::kSpecific:
      return policy.specific.size() > 1;
  }
  return false;
}

// Of a message with the fields `absolute` and `relative`.
template <typename Message>
absl::StatusOr<Tolerance> CheckTolerance(const Located<Message>& message) {
  Tolerance tolerance;
  const auto check = [&message](int number, double value) {
    if (std::isfinite(value) && value >= 0) return absl::OkStatus();
    return message.Error(number, absl::StrCat("expected a number of at least 0, got ", value));
  };
  if (message->has_absolute()) tolerance.absolute = message->absolute();
  if (message->has_relative()) tolerance.relative = message->relative();
  absl::Status status = check(Message::kAbsoluteFieldNumber, tolerance.absolute);
  status.Update(check(Message::kRelativeFieldNumber, tolerance.relative));
  if (!status.ok()) return status;
  return tolerance;
}

absl::StatusOr<CanaryConfig> CheckCanary(const Located<config::ModelCanary>& canary) {
  using Message = config::ModelCanary;
  CanaryConfig checked;
  checked.share = 0.1;
  // Written so that NaN fails.
  if (canary->has_share()) checked.share = canary->share();
  if (!(checked.share > 0 && checked.share < 1)) {
    return canary.Error(Message::kShareFieldNumber,
                        absl::StrCat("expected a share between 0 and 1, got ", checked.share));
  }
  if (canary->has_seconds()) {
    const double seconds = canary->seconds();
    if (!(seconds >= kMinCanarySeconds && seconds <= kMaxCanarySeconds)) {
      return canary.Error(Message::kSecondsFieldNumber,
                          ExpectedRange(kMinCanarySeconds, kMaxCanarySeconds, seconds));
    }
    checked.duration = std::chrono::milliseconds(std::llround(seconds * 1000));
  }
  if (canary->has_max_error_share()) checked.max_error_share = canary->max_error_share();
  if (!(checked.max_error_share >= 0 && checked.max_error_share <= 1)) {
    return canary.Error(Message::kMaxErrorShareFieldNumber,
                        ExpectedRange(0.0, 1.0, checked.max_error_share));
  }
  if (canary->has_max_latency_ratio()) checked.max_latency_ratio = canary->max_latency_ratio();
  if (!(checked.max_latency_ratio >= 1 && checked.max_latency_ratio <= kMaxLatencyRatio)) {
    return canary.Error(Message::kMaxLatencyRatioFieldNumber,
                        ExpectedRange(1.0, kMaxLatencyRatio, checked.max_latency_ratio));
  }
  return checked;
}

// What a version written over the one that answers cannot do.
absl::Status CheckInPlace(const Located<config::ModelConfig>& config,
                          const Located<config::ModelSwap>& swap, const ModelConfig& out) {
  using Message = config::ModelSwap;
  const std::string mode = Message::Mode_Name(swap->mode());
  if (swap->has_canary()) {
    return swap.Error(Message::kCanaryFieldNumber,
                      absl::StrCat("expected none with mode ", mode,
                                   ": only one of the two versions can be there"));
  }
  if (out.manual_promotion) {
    return swap.Error(Message::kPromotionFieldNumber,
                      absl::StrCat("expected AUTOMATIC with mode ", mode,
                                   ", got MANUAL: what is written over the version that answers "
                                   "cannot wait"));
  }
  if (WantsSeveral(out.version_policy)) {
    return config.Error(config::ModelConfig::kVersionPolicyFieldNumber,
                        absl::StrCat("expected one version with swap mode ", mode,
                                     ", got a policy that may want several"));
  }
  if (out.swap == SwapMode::kInPlace && swap->has_retain_versions() && out.retained_versions > 0) {
    return swap.Error(Message::kRetainVersionsFieldNumber,
                      absl::StrCat("expected 0 with mode ", mode, ", got ", out.retained_versions,
                                   ": the version before is written over"));
  }
  return absl::OkStatus();
}

absl::Status CheckTakingOver(const Located<config::ModelConfig>& config, ModelConfig* out) {
  using Message = config::ModelSwap;
  const auto swap = config.Inside(config::ModelConfig::kSwapFieldNumber, config->swap());
  if (swap->mode() == Message::IN_PLACE_IF_NEEDED) out->swap = SwapMode::kInPlaceIfNeeded;
  if (swap->mode() == Message::IN_PLACE) out->swap = SwapMode::kInPlace;
  out->manual_promotion = swap->promotion() == Message::MANUAL;
  if (swap->has_retain_versions()) {
    if (swap->retain_versions() > kMaxRetained) {
      return swap.Error(Message::kRetainVersionsFieldNumber,
                        ExpectedRange(0u, kMaxRetained, swap->retain_versions()));
    }
    out->retained_versions = static_cast<int32_t>(swap->retain_versions());
  }
  if (out->swap != SwapMode::kBeside) {
    const absl::Status status = CheckInPlace(config, swap, *out);
    if (!status.ok()) return status;
  }
  if (!swap->has_canary()) return absl::OkStatus();
  if (WantsSeveral(out->version_policy)) {
    return swap.Error(Message::kCanaryFieldNumber,
                      "expected none with a version_policy that may want several versions");
  }
  auto canary = CheckCanary(swap.Inside(Message::kCanaryFieldNumber, swap->canary()));
  if (!canary.ok()) return canary.status();
  out->canary = *canary;
  return absl::OkStatus();
}

absl::Status CheckProof(const Located<config::ModelProof>& proof, ModelConfig* out) {
  using Message = config::ModelProof;
  out->proof.allow_non_finite = proof->allow_non_finite_weights();
  auto golden = CheckTolerance(proof.Inside(Message::kGoldenFieldNumber, proof->golden()));
  if (!golden.ok()) return golden.status();
  out->proof.golden = *golden;
  if (!proof->has_agreement()) return absl::OkStatus();
  const auto agreement = proof.Inside(Message::kAgreementFieldNumber, proof->agreement());
  out->proof.agreement_requests = 100;
  if (agreement->has_requests()) {
    if (agreement->requests() < 1 || agreement->requests() > kMaxAgreementRequests) {
      return agreement.Error(config::ModelAgreement::kRequestsFieldNumber,
                             ExpectedRange(1u, kMaxAgreementRequests, agreement->requests()));
    }
    out->proof.agreement_requests = static_cast<int32_t>(agreement->requests());
  }
  auto tolerance = CheckTolerance(agreement);
  if (!tolerance.ok()) return tolerance.status();
  out->proof.agreement = *tolerance;
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSwap(const Located<config::ModelConfig>& config, ModelConfig* out) {
  using Message = config::ModelConfig;
  if (const absl::Status status = CheckVersionPolicy(config, out); !status.ok()) return status;
  if (const absl::Status status = CheckTakingOver(config, out); !status.ok()) return status;
  return CheckProof(config.Inside(Message::kProofFieldNumber, config->proof()), out);
}

}  // namespace sconce
