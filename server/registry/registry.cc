#include "server/registry/registry.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace sconce {

void Registry::AddObserver(RegistryObserver* observer) { observers_.push_back(observer); }

std::shared_ptr<Model> Registry::Find(const std::string& name) const {
  MutexLock lock(&mutex_);
  const auto it = models_.find(name);
  return it == models_.end() ? nullptr : it->second;
}

std::vector<std::shared_ptr<Model>> Registry::Models() const {
  MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<Model>> models;
  for (const auto& [name, model] : models_) models.push_back(model);
  return models;
}

std::shared_ptr<Model> Registry::Add(const std::string& name) {
  std::shared_ptr<Model> model;
  {
    MutexLock lock(&mutex_);
    std::shared_ptr<Model>& slot = models_[name];
    if (slot != nullptr) return slot;
    slot = model = std::make_shared<Model>(name);
  }
  for (RegistryObserver* observer : observers_) observer->OnModelAdded(model);
  return model;
}

void Registry::Remove(const std::string& name) {
  std::shared_ptr<Model> model;
  {
    MutexLock lock(&mutex_);
    const auto it = models_.find(name);
    if (it == models_.end()) return;
    model = std::move(it->second);
    models_.erase(it);
    awaited_.erase(name);
  }
  model->Retire();
  for (RegistryObserver* observer : observers_) observer->OnModelRemoved(model);
  UpdateReady();
}

void Registry::Serve(const std::shared_ptr<Model>& model, Serving serving) {
  model->Serve(std::move(serving));
  {
    MutexLock lock(&mutex_);
    awaited_.erase(model->name());
  }
  for (RegistryObserver* observer : observers_) observer->OnModelChanged(model);
  UpdateReady();
}

void Registry::Retire(const std::shared_ptr<Model>& model) {
  model->Retire();
  {
    // Whoever unloads a model does not want it any more.
    MutexLock lock(&mutex_);
    awaited_.erase(model->name());
  }
  for (RegistryObserver* observer : observers_) observer->OnModelChanged(model);
  UpdateReady();
}

Lost Registry::RetireLost(const std::shared_ptr<Model>& model, const ModelVersion& version,
                          const std::string& reason) {
  const Lost lost = model->RetireLost(version, reason);
  if (lost == Lost::kNothing) return lost;
  if (lost == Lost::kModel) {
    MutexLock lock(&mutex_);
    if (device_fault_.empty())
      device_fault_ = absl::StrCat("model '", model->name(), "': ", reason);
  }
  for (RegistryObserver* observer : observers_) observer->OnModelChanged(model);
  UpdateReady();
  return lost;
}

std::string Registry::device_fault() const {
  MutexLock lock(&mutex_);
  return device_fault_;
}

bool Registry::Ready() const {
  MutexLock lock(&mutex_);
  return initial_known_ && awaited_.empty() && device_fault_.empty() && !shutting_down_;
}

void Registry::SetInitialModels(std::set<std::string> names) {
  {
    MutexLock lock(&mutex_);
    for (const auto& [name, model] : models_) {
      if (model->Pin() != nullptr) names.erase(name);
    }
    awaited_ = std::move(names);
    initial_known_ = true;
  }
  UpdateReady();
}

void Registry::BeginShutdown() {
  {
    MutexLock lock(&mutex_);
    shutting_down_ = true;
  }
  UpdateReady();
}

void Registry::UpdateReady() {
  MutexLock lock(&ready_mutex_);
  const bool ready = Ready();
  if (ready == last_ready_) return;
  last_ready_ = ready;
  for (RegistryObserver* observer : observers_) observer->OnReadyChanged(ready);
}

}  // namespace sconce
