#include "server/registry/model.h"

#include <cassert>
#include <utility>

namespace sconce {

std::shared_ptr<const ModelVersion> Model::Pin() const {
  MutexLock lock(&mutex_);
  return live_;
}

void Model::Publish(std::shared_ptr<const ModelVersion> version) {
  {
    MutexLock lock(&mutex_);
    assert(version->number > last_number_);
    last_number_ = version->number;
    live_.swap(version);
  }
  // The pin on the version before is dropped here, outside the lock.
}

void Model::Retire() {
  std::shared_ptr<const ModelVersion> retired;
  MutexLock lock(&mutex_);
  live_.swap(retired);
}

bool Model::RetireLost(const ModelVersion& version, std::string reason) {
  std::shared_ptr<const ModelVersion> retired;
  MutexLock lock(&mutex_);
  if (live_.get() != &version) return false;
  live_.swap(retired);
  progress_.last_error = std::move(reason);
  return true;
}

int64_t Model::NextNumber() const {
  MutexLock lock(&mutex_);
  return last_number_ + 1;
}

void Model::SetProgress(Progress progress) {
  MutexLock lock(&mutex_);
  progress_ = std::move(progress);
}

Model::Progress Model::progress() const {
  MutexLock lock(&mutex_);
  return progress_;
}

}  // namespace sconce
