#include "server/registry/model.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sconce {

absl::Status NoSuchVersion(int64_t wanted, const Serving& serving) {
  std::vector<int64_t> numbers;
  for (const auto& [number, version] : serving.others) numbers.push_back(number);
  numbers.push_back(serving.live->number);
  if (serving.canary != nullptr) numbers.push_back(serving.canary->number);
  std::sort(numbers.begin(), numbers.end());
  return absl::NotFoundError(absl::StrCat(
      "model '", serving.live->model, "' has no version ", wanted, ", it serves version",
      numbers.size() == 1 ? " " : "s ", absl::StrJoin(numbers, ", ")));
}

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

Serving Model::serving() const {
  MutexLock lock(&mutex_);
  return serving_;
}

void Model::Serve(Serving serving) {
  {
    MutexLock lock(&mutex_);
    std::swap(serving_, serving);
    ++serving_change_;
  }
  // The pins on the versions before are dropped here, outside the lock.
}

Lost Model::RetireLost(const ModelVersion& version, std::string reason) {
  Serving retired;  // dropped outside the lock
  MutexLock lock(&mutex_);
  const auto lost = [&] {
    ++serving_change_;
    lost_because_ = std::move(reason);
  };
  if (serving_.canary.get() == &version) {
    retired.canary = std::move(serving_.canary);
    serving_.canary_share = 0;
    serving_.trial = nullptr;
    lost();
    return Lost::kBeside;
  }
  const auto other = serving_.others.find(version.number);
  if (other != serving_.others.end() && other->second.get() == &version) {
    retired.live = std::move(other->second);
    serving_.others.erase(other);
    lost();
    return Lost::kBeside;
  }
  if (serving_.live.get() != &version) return Lost::kNothing;
  std::swap(retired, serving_);
  lost();
  progress_.last_error = lost_because_;
  return Lost::kModel;
}

std::string Model::lost_because() const {
  MutexLock lock(&mutex_);
  return lost_because_;
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
