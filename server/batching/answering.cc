#include "server/batching/answering.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sconce {

void Answering::Set(Serving serving) {
  versions_.clear();
  executors_ = 0;
  canary_ = 0;
  canary_credit_ = 0;
  serving_ = std::move(serving);
  if (serving_.live == nullptr) {
    serving_ = {};
    return;
  }
  Add(0, serving_.live);
  if (serving_.canary != nullptr) {
    Add(serving_.live->number, serving_.live);
    // A client must not notice; what takes other inputs is for those who ask for it alone.
    if (serving_.canary->signature == serving_.live->signature) canary_ = versions_.size();
    Add(serving_.canary->number, serving_.canary);
  }
  for (const auto& [number, version] : serving_.others) Add(number, version);
}

void Answering::Add(int64_t wanted, std::shared_ptr<const ModelVersion> version) {
  executors_ = std::max(executors_, version->replicas.size());
  versions_.push_back({.wanted = wanted, .version = std::move(version), .places = {}});
  Ask(&versions_.back()).IgnoreError();
}

absl::Status Answering::Ask(AnsweringVersion* answering) {
  answering->places.clear();
  answering->most_rows = 0;
  absl::Status lost;
  bool any = false;
  for (const auto& replica : answering->version->replicas) {
    absl::Status health = replica->health();
    ReplicaPlace& place = answering->places.emplace_back();
    place = {.usable = health.ok(),
             .device = DeviceNumber(replica->device()),
             .max_rows = replica->max_rows()};
    if (health.ok()) {
      any = true;
      answering->most_rows = std::max(answering->most_rows, place.max_rows);
    } else {
      lost = std::move(health);
    }
  }
  return any ? absl::OkStatus() : lost;
}

int Answering::DeviceNumber(const std::string& name) {
  const auto found = std::find(devices_.begin(), devices_.end(), name);
  const auto number = static_cast<int>(found - devices_.begin());
  if (found == devices_.end()) devices_.push_back(name);
  return number;
}

std::vector<LostVersion> Answering::CheckHealth() {
  std::vector<LostVersion> lost;
  for (AnsweringVersion& answering : versions_) {
    const absl::Status health = Ask(&answering);
    if (health.ok()) continue;
    // The live version may be there twice.
    if (!lost.empty() && lost.front().version == answering.version) continue;
    lost.push_back({answering.version, std::string(health.message())});
  }
  return lost;
}

size_t Answering::IndexOf(int64_t wanted) const {
  if (wanted == 0 || versions_.empty()) return 0;
  for (size_t i = 1; i < versions_.size(); ++i) {
    if (versions_[i].wanted == wanted) return i;
  }
  return wanted == versions_[0].version->number ? 0 : versions_.size();
}

bool Answering::AnyRunsOn(size_t executor) const {
  return std::any_of(versions_.begin(), versions_.end(),
                     [&](const AnsweringVersion& answering) { return answering.RunsOn(executor); });
}

const AnsweringVersion& Answering::Choose(size_t index, size_t executor, int64_t rows) {
  if (index != 0 || canary_ == 0) return versions_[index];
  canary_credit_ += serving_.canary_share;
  if (canary_credit_ < 1) return versions_[0];
  const AnsweringVersion& canary = versions_[canary_];
  if (!canary.RunsOn(executor) ||
      rows > std::min(canary.places[executor].max_rows, canary.version->max_batch_rows())) {
    canary_credit_ = 1;  // the next one, then
    return versions_[0];
  }
  canary_credit_ -= 1;
  return canary;
}

absl::Status Answering::TooLarge(size_t index) const {
  const AnsweringVersion& answering = versions_[index];
  std::string device;
  for (const ReplicaPlace& place : answering.places) {
    if (place.usable && place.max_rows == answering.most_rows) device = devices_[place.device];
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("model '", answering.version->model, "': expected at most ", answering.most_rows,
                   " rows in a request, which is what fits into the memory of ", device));
}

}  // namespace sconce
