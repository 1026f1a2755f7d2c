// Registry: the models there are, by name. Says when the server is ready and tells observers when
// that or a model changes.
//
// Thread-safe. Owned by App. Add and Remove are called by the reloader; Find by every request.

#ifndef SCONCE_SERVER_REGISTRY_REGISTRY_H_
#define SCONCE_SERVER_REGISTRY_REGISTRY_H_

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "server/base/mutex.h"
#include "server/registry/model.h"

namespace sconce {

// Told of changes on the thread that makes them, without a lock held; each call must be short.
class RegistryObserver {
 public:
  virtual ~RegistryObserver() = default;
  virtual void OnModelAdded(const std::shared_ptr<Model>& model) = 0;
  virtual void OnModelRemoved(const std::shared_ptr<Model>& model) = 0;
  // Other versions answer than before, or none: see model->serving().
  virtual void OnModelChanged(const std::shared_ptr<Model>& model) = 0;
  virtual void OnReadyChanged(bool ready) = 0;
};

class Registry {
 public:
  // REQUIRES: called before the first model is added; `observer` outlives the registry's use.
  void AddObserver(RegistryObserver* observer);

  // Null if there is none of that name.
  std::shared_ptr<Model> Find(const std::string& name) const;
  // Sorted by name.
  std::vector<std::shared_ptr<Model>> Models() const;

  // The model of that name, made if there is none.
  std::shared_ptr<Model> Add(const std::string& name);
  // Retires the model and forgets it.
  void Remove(const std::string& name);

  // Changes what answers through the registry, so that observers hear of it.
  void Serve(const std::shared_ptr<Model>& model, Serving serving);
  // `version` alone answers from now on.
  void Publish(const std::shared_ptr<Model>& model, std::shared_ptr<const ModelVersion> version) {
    Serve(model, {.live = std::move(version)});
  }
  void Retire(const std::shared_ptr<Model>& model);

  // Takes `version`, none of whose devices works any more, out of service for `reason`. Where it is
  // the live one, the model goes with it, and the server is unready for good: only a new process
  // has the device again. A canary, or a version that answers by its number, goes alone.
  Lost RetireLost(const std::shared_ptr<Model>& model, const ModelVersion& version,
                  const std::string& reason);
  // Why the server is unready for that; empty while it is not.
  std::string device_fault() const;

  // The server is ready once every model of the first look at the repository has been able to
  // serve, or was removed or retired, and until BeginShutdown or RetireLost. A version that loads
  // or failed, and a model that is added later, do not change that: a restart would not help and
  // would take good models out of service.
  bool Ready() const;
  // The models found by the first look; from here on readiness is decided.
  void SetInitialModels(std::set<std::string> names);
  // Unready for good.
  void BeginShutdown();

 private:
  void UpdateReady();

  std::vector<RegistryObserver*> observers_;
  mutable Mutex mutex_;
  std::map<std::string, std::shared_ptr<Model>> models_ ABSL_GUARDED_BY(mutex_);
  // Models of the first look that have not been able to serve yet.
  std::set<std::string> awaited_ ABSL_GUARDED_BY(mutex_);
  std::string device_fault_ ABSL_GUARDED_BY(mutex_);
  bool initial_known_ ABSL_GUARDED_BY(mutex_) = false;
  bool shutting_down_ ABSL_GUARDED_BY(mutex_) = false;
  // Orders the calls to observers.
  Mutex ready_mutex_;
  bool last_ready_ ABSL_GUARDED_BY(ready_mutex_) = false;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_REGISTRY_REGISTRY_H_
