#include "server/registry/model.h"

#include <utility>

namespace sconce {

std::shared_ptr<const ModelVersion> Model::Pin() const {
  MutexLock lock(&mutex_);
  return serving_.live;
}

std::shared_ptr<const ModelVersion> Model::Pin(int64_t number) const {
  MutexLock lock(&mutex_);
  for (const auto& version : {serving_.live, serving_.canary}) {
    if (version != nullptr && version->number == number) return version;
  }
  const auto other = serving_.others.find(number);
  return other == serving_.others.end() ? nullptr : other->second;
}

std::shared_ptr<const ModelVersion> Model::PinForBatch() {
  MutexLock lock(&mutex_);
  if (serving_.canary == nullptr) return serving_.live;
  // Spread evenly, not drawn: a share of a tenth is every tenth batch.
  canary_credit_ += serving_.canary_share;
  if (canary_credit_ < 1) return serving_.live;
  canary_credit_ -= 1;
  return serving_.canary;
}

Serving Model::serving() const {
  MutexLock lock(&mutex_);
  return serving_;
}

void Model::Serve(Serving serving) {
  {
    MutexLock lock(&mutex_);
    std::swap(serving_, serving);
    canary_credit_ = 0;
  }
  // The pins on the versions before are dropped here, outside the lock.
}

bool Model::RetireLost(const ModelVersion& version, std::string reason) {
  Serving retired;
  MutexLock lock(&mutex_);
  if (serving_.canary.get() == &version) {
    retired.canary = std::move(serving_.canary);
    return true;
  }
  const auto other = serving_.others.find(version.number);
  if (other != serving_.others.end() && other->second.get() == &version) {
    retired.live = std::move(other->second);
    serving_.others.erase(other);
    return true;
  }
  if (serving_.live.get() != &version) return false;
  std::swap(retired, serving_);
  progress_.last_error = std::move(reason);
  return true;
}

void Model::SetProgress(Progress progress) {
  MutexLock lock(&mutex_);
  progress_ = std::move(progress);
}

Model::Progress Model::progress() const {
  MutexLock lock(&mutex_);
  return progress_;
}

void Model::SetRecords(std::vector<VersionRecord> records) {
  MutexLock lock(&mutex_);
  records_ = std::move(records);
}

std::vector<VersionRecord> Model::records() const {
  MutexLock lock(&mutex_);
  return records_;
}

}  // namespace sconce
