#include "server/batching/batchers.h"

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"

namespace sconce {
namespace {

// Keeps the batcher, so that a model may be removed meanwhile.
class Held : public BatchHold {
 public:
  explicit Held(std::shared_ptr<Batcher> batcher) : batcher_(std::move(batcher)) {}
  ~Held() override { batcher_->Release(); }

 private:
  const std::shared_ptr<Batcher> batcher_;
};

}  // namespace

std::vector<std::shared_ptr<Batcher>> Batchers::All() const {
  MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<Batcher>> all;
  for (const auto& [name, batcher] : batchers_) all.push_back(batcher);
  return all;
}

std::shared_ptr<Batcher> Batchers::Find(const std::string& model) const {
  MutexLock lock(&mutex_);
  const auto it = batchers_.find(model);
  return it == batchers_.end() ? nullptr : it->second;
}

void Batchers::CheckHealth() const {
  for (const auto& batcher : All()) batcher->CheckHealth();
}

std::vector<WatchedBatch> Batchers::UnderWay() const {
  std::vector<WatchedBatch> batches;
  for (const auto& batcher : All()) batcher->AddUnderWay(&batches);
  return batches;
}

absl::StatusOr<std::unique_ptr<BatchHold>> Batchers::HoldBatches(const std::string& model,
                                                                 Duration patience) {
  std::shared_ptr<Batcher> batcher = Find(model);
  if (batcher == nullptr) {
    return absl::NotFoundError(absl::StrCat("there is no model '", Printable(model), "'"));
  }
  if (absl::Status status = batcher->Hold(patience); !status.ok()) return status;
  return std::make_unique<Held>(std::move(batcher));
}

void Batchers::OnModelAdded(const std::shared_ptr<Model>& model) {
  auto batcher =
      std::make_shared<Batcher>(model, metrics_->ForModel(model->name()), clock_, on_devices_lost_);
  MutexLock lock(&mutex_);
  batchers_[model->name()] = std::move(batcher);
}

void Batchers::OnModelRemoved(const std::shared_ptr<Model>& model) {
  std::shared_ptr<Batcher> batcher;
  {
    MutexLock lock(&mutex_);
    const auto it = batchers_.find(model->name());
    if (it == batchers_.end()) return;
    batcher = std::move(it->second);
    batchers_.erase(it);
  }
  // Not left to the last request that holds it: that one would be an executor joining itself.
  batcher->Stop();
}

void Batchers::OnModelChanged(const std::shared_ptr<Model>& model) {
  if (const std::shared_ptr<Batcher> batcher = Find(model->name())) batcher->OnVersionChanged();
}

}  // namespace sconce
