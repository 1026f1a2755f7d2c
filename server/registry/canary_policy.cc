#include "server/registry/canary_policy.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sconce {
namespace {

// Batches to compare before times are judged: the first ones after a version is published are
// slower, and one that the machine held up must not decide.
constexpr int64_t kLeastBatches = 20;

// How many of `requests` may fail where each fails with the probability `share`: beyond three
// standard deviations it is not chance.
double MostFailures(double share, int64_t requests) {
  if (share <= 0) return 0;
  const auto n = static_cast<double>(requests);
  return share * n + 3 * std::sqrt(share * (1 - std::min(share, 1.0)) * n) + 1;
}

double ShareOf(int64_t part, int64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

// Of the sizes that both ran: what the canary's batches took, and would have taken on the version
// that serves.
struct Comparison {
  int64_t batches = 0;
  double took_seconds = 0;
  double expected_seconds = 0;
};

Comparison CompareTimes(const VersionCounts& live, const VersionCounts& canary) {
  Comparison comparison;
  for (const auto& [rows, times] : canary.by_rows) {
    const auto other = live.by_rows.find(rows);
    if (times.batches == 0 || other == live.by_rows.end() || other->second.batches == 0) continue;
    comparison.batches += std::min(times.batches, other->second.batches);
    comparison.took_seconds += ToSeconds(times.compute);
    comparison.expected_seconds +=
        ToSeconds(other->second.compute) * ShareOf(times.batches, other->second.batches);
  }
  return comparison;
}

CanaryVerdict Withdraw(std::string reason) {
  return {CanaryVerdict::Kind::kWithdraw, std::move(reason)};
}

}  // namespace

CanaryVerdict JudgeCanary(const CanaryConfig& config, const VersionCounts& live,
                          const VersionCounts& canary, Duration since) {
  if (canary.non_finite > 0 && live.non_finite == 0) {
    return Withdraw(absl::StrCat("outputs that are not finite in ", canary.non_finite,
                                 " of its batches; the version that serves gave none such"));
  }
  const double live_share = ShareOf(live.failed, live.requests);
  const double allowed = std::max(config.max_error_share, live_share);
  if (static_cast<double>(canary.failed) > MostFailures(allowed, canary.requests)) {
    return Withdraw(absl::StrCat("failed ", canary.failed, " of ", canary.requests,
                                 " requests, expected a share of at most ", allowed,
                                 " (the version that serves failed ", live.failed, " of ",
                                 live.requests, ")"));
  }
  const Comparison times = CompareTimes(live, canary);
  if (times.batches >= kLeastBatches &&
      times.took_seconds > config.max_latency_ratio * times.expected_seconds) {
    return Withdraw(absl::StrCat(
        "its batches took ", times.took_seconds, " s, on the version that serves as many of the ",
        "same sizes take ", times.expected_seconds, " s, expected at most ",
        config.max_latency_ratio, " times as long"));
  }
  if (since >= config.duration && canary.requests > 0) return {CanaryVerdict::Kind::kPromote, ""};
  return {};
}

VersionCounts* CanaryTrial::CountsOf(int64_t version) {
  if (version == live_) return &live_counts_;
  return version == canary_ ? &canary_counts_ : nullptr;
}

void CanaryTrial::RecordBatch(int64_t version, int64_t requests, int64_t rows, Duration compute,
                              bool non_finite) {
  MutexLock lock(&mutex_);
  VersionCounts* const counts = CountsOf(version);
  if (counts == nullptr) return;
  counts->requests += requests;
  if (non_finite) ++counts->non_finite;
  VersionCounts::Times& times = counts->by_rows[rows];
  ++times.batches;
  times.compute += compute;
}

void CanaryTrial::RecordFailures(int64_t version, int64_t requests) {
  MutexLock lock(&mutex_);
  VersionCounts* const counts = CountsOf(version);
  if (counts == nullptr) return;
  counts->requests += requests;
  counts->failed += requests;
}

VersionCounts CanaryTrial::live() const {
  MutexLock lock(&mutex_);
  return live_counts_;
}

VersionCounts CanaryTrial::canary() const {
  MutexLock lock(&mutex_);
  return canary_counts_;
}

}  // namespace sconce
