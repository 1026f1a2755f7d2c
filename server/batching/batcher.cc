#include "server/batching/batcher.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "server/base/thread.h"
#include "server/batching/batch_assembly.h"

namespace sconce {
namespace {

// Batches of a request that may be lost with their device: what takes out one device after the
// other must not take out all.
constexpr int kMaxLostBatches = 1;

}  // namespace

struct Batcher::Slot {
  Slot(size_t index, const std::shared_ptr<Model>& model, ModelMetrics* metrics, const Clock* clock)
      : executor(index, model, metrics, clock) {}

  // The thread's own; the rest is guarded by Batcher's mutex_.
  Executor executor;

  CondVar wake;
  // Whether the live version has a replica for it that works.
  bool usable = false;
  int64_t lost_version = 0;
  std::string device;
  // Of the largest batch it takes.
  int64_t batch_rows = 0;
  std::vector<WatchedBatch> watched;
  Thread thread;
};

// What an executor takes out of the queue in one turn.
struct Batcher::Closing {
  Batch batch;
  Refusals refused;
};

Batcher::Batcher(std::shared_ptr<Model> model, ModelMetrics* metrics, const Clock* clock,
                 OnDevicesLost on_devices_lost)
    : model_(std::move(model)),
      metrics_(metrics),
      clock_(clock),
      on_devices_lost_(std::move(on_devices_lost)),
      queue_(model_->name(), metrics) {}

Batcher::~Batcher() { Stop(); }

void Batcher::OnVersionChanged() {
  {
    MutexLock lock(&mutex_);
    if (stopped_) return;
    const std::shared_ptr<const ModelVersion> version = model_->Pin();
    const size_t wanted = version == nullptr ? 1 : version->replicas.size();
    while (slots_.size() < wanted) {
      slots_.push_back(std::make_unique<Slot>(slots_.size(), model_, metrics_, clock_));
      loads_.emplace_back();
      Slot* const slot = slots_.back().get();
      slot->thread = Thread(absl::StrCat("exec-", model_->name()), ThreadPriority::kNormal,
                            [this, slot] { RunExecutor(slot); });
    }
    for (const auto& slot : slots_) Know(slot.get(), version.get());
    for (size_t i = 0; i < slots_.size(); ++i) {
      const auto first = std::find_if(slots_.begin(), slots_.end(), [&](const auto& other) {
        return other->device == slots_[i]->device;
      });
      loads_[i].device = static_cast<int>(first - slots_.begin());
      slots_[i]->wake.Notify();
    }
  }
  CheckHealth();
}

void Batcher::Know(Slot* slot, const ModelVersion* version) {
  const size_t index = slot->executor.index();
  ExecutorLoad& load = loads_[index];
  slot->device.clear();
  slot->usable = version == nullptr && index == 0;  // to refuse what waits
  load.max_rows = std::numeric_limits<int64_t>::max();
  if (version != nullptr && index < version->replicas.size()) {
    const Replica& replica = *version->replicas[index];
    slot->usable = version->number != slot->lost_version;
    slot->device = replica.device();
    load.max_rows = replica.max_rows();
    slot->batch_rows = std::min(version->config.max_batch_size, replica.max_rows());
  }
  load.looks_soon = load.looks_soon || !load.available;
  load.available = slot->usable && (load.available || load.under_way == 0);
}

void Batcher::CheckHealth() {
  std::shared_ptr<const ModelVersion> version;
  absl::Status health;
  bool any = false;
  Refusals left;
  {
    MutexLock lock(&mutex_);
    version = model_->Pin();
    if (stopped_ || version == nullptr) return;
    for (size_t i = 0; i < version->replicas.size(); ++i) {
      absl::Status status = version->replicas[i]->health();
      any = any || status.ok();
      if (status.ok() || i >= slots_.size()) continue;
      health = std::move(status);
      slots_[i]->lost_version = version->number;
      slots_[i]->usable = false;
      loads_[i].available = false;
      slots_[i]->wake.Notify();
    }
    if (!any) left = queue_.TakeAll(NotServed(health.message()));
    Call(Next(clock_->Now()));
  }
  if (any) return;
  if (on_devices_lost_) on_devices_lost_(model_, version, std::string(health.message()));
  Refuse(&left);
}

void Batcher::Submit(InferRequest request) {
  request.shape_key = ShapeKey(request);
  const TimePoint arrival = request.arrival;
  absl::Status refused;
  {
    MutexLock lock(&mutex_);
    if (stopped_ || (!slots_.empty() && !AnyUsable())) {
      refused = NotServed();
    } else if (request.checked.rows > MostRows()) {
      refused = TooLarge();
    } else {
      refused = queue_.CheckRoom(request);
    }
    if (refused.ok()) {
      queue_.Add(std::move(request));
      Call(Next(arrival));  // near enough to now, which takes longer to find out
      return;
    }
  }
  sconce::Refuse(request, refused, *clock_, model_.get());
}

void Batcher::Stop() {
  Refusals left;
  std::vector<Thread> threads;
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    left = queue_.TakeAll(NotServed());
    for (const auto& slot : slots_) {
      slot->wake.Notify();
      threads.push_back(std::move(slot->thread));
    }
  }
  Refuse(&left);
  for (Thread& thread : threads) thread.Join();
}

void Batcher::AddUnderWay(std::vector<WatchedBatch>* batches) {
  MutexLock lock(&mutex_);
  for (const auto& slot : slots_) {
    for (const WatchedBatch& batch : slot->watched) {
      batches->push_back(batch);
      batches->back().model = model_->name();
    }
  }
}

void Batcher::RunExecutor(Slot* slot) {
  Executor& executor = slot->executor;
  for (;;) {
    Closing closing;
    Turn turn;
    {
      MutexLock lock(&mutex_);
      turn = AwaitTurn(slot, &closing);
    }
    Refuse(&closing.refused);
    switch (turn) {
      case Turn::kLaunch:
        if (!closing.batch.requests.empty()) executor.Launch(std::move(closing.batch));
        break;
      case Turn::kFinish:
        executor.Finish();
        break;
      case Turn::kAnswer:
        executor.SendAnswers();
        break;
      case Turn::kEnd:
        return;
    }
    if (executor.HasLost()) PutBack(executor.TakeLost());
  }
}

Batcher::Turn Batcher::AwaitTurn(Slot* slot, Closing* closing) {
  const Executor& executor = slot->executor;
  const size_t index = executor.index();
  slot->watched.erase(slot->watched.begin(), slot->watched.end() - executor.under_way());
  loads_[index].under_way = executor.under_way();
  loads_[index].rows = executor.rows_under_way();
  loads_[index].looks_soon = false;
  for (;;) {
    NextStep next;
    if (!slot->usable || stopped_) {
      if (executor.under_way() > 0) return Turn::kFinish;
    } else if (!queue_.empty() || executor.under_way() > 0) {
      const TimePoint now = clock_->Now();
      if (executor.under_way() > 0) loads_[index].expected_end = executor.FreeAt(now);
      loads_[index].available = true;
      const std::optional<size_t> turn_of = Next(now);
      loads_[index].available = false;
      const bool mine = turn_of == index;
      if (!mine) Call(turn_of);
      const int64_t rows = std::min(queue_.rows(), slot->batch_rows);
      next = DecideStep(executor.Situation(mine, rows == slot->batch_rows, rows, now), now);
      if (next.step == ExecutorStep::kClose) {
        if (Close(slot, now, closing)) return Turn::kLaunch;
        if (!slot->usable || executor.under_way() == 0) continue;
        // Enough waits, but not of one shape.
        next = DecideStep(executor.Situation(mine, false, rows, now), now);
      }
      if (next.step == ExecutorStep::kFinish) return Turn::kFinish;
    }
    loads_[index].available = slot->usable;
    if (executor.HasAnswers()) {
      loads_[index].looks_soon = true;
      return Turn::kAnswer;
    }
    if (stopped_) return Turn::kEnd;
    if (next.until == TimePoint::max()) {
      slot->wake.Wait(&mutex_);
    } else {
      slot->wake.WaitUntil(&mutex_, next.until);
    }
    loads_[index].available = false;
  }
}

std::optional<size_t> Batcher::Next(TimePoint now) const {
  if (queue_.empty()) return std::nullopt;
  // Nothing to choose: what does not fit it fits none.
  if (loads_.size() == 1) return loads_[0].available ? std::optional<size_t>(0) : std::nullopt;
  int64_t fits = -1;
  for (const ExecutorLoad& load : loads_) {
    if (load.available) fits = std::max(fits, load.max_rows);
  }
  if (fits < 0) return std::nullopt;
  for (const InferRequest& request : queue_.requests()) {
    // What fits nowhere any more has to be refused by somebody.
    const int64_t rows = request.checked.rows > MostRows() ? 0 : request.checked.rows;
    if (rows <= fits) return NextExecutor(loads_, rows, now);
  }
  return std::nullopt;
}

void Batcher::Call(std::optional<size_t> executor) {
  if (!executor.has_value()) return;
  // One that has a batch under way wakes by itself when it is time to close the next.
  Slot& slot = *slots_[*executor];
  if (loads_[*executor].under_way == 0 || queue_.rows() >= slot.batch_rows) slot.wake.Notify();
}

bool Batcher::Close(Slot* slot, TimePoint now, Closing* closing) {
  const Executor& executor = slot->executor;
  const size_t index = executor.index();
  const std::shared_ptr<const ModelVersion> version = model_->Pin();
  if (version == nullptr) {
    closing->refused = queue_.TakeAll(NotServed());
    return true;
  }
  // Another version may have been published an instant ago; OnVersionChanged follows.
  slot->usable = index < version->replicas.size() && version->number != slot->lost_version;
  if (!slot->usable) return false;
  ExecutorLoad& load = loads_[index];
  load.max_rows = version->replicas[index]->max_rows();
  slot->batch_rows = std::min(version->config.max_batch_size, load.max_rows);

  const BatchPlan plan = PlanBatch(queue_.Snapshot(), now,
                                   {.rows = version->config.max_batch_size,
                                    .replica_rows = load.max_rows,
                                    .any_replica_rows = MostRows(),
                                    .start = executor.FreeAt(now)},
                                   executor.compute_times());
  const int64_t rows = std::min(queue_.rows(), slot->batch_rows);
  if (DecideStep(executor.Situation(true, plan.full, rows, now), now).step !=
      ExecutorStep::kClose) {
    return false;
  }
  Batch& batch = closing->batch;
  batch.requests =
      queue_.Take(plan, *version, now, plan.too_large.empty() ? absl::OkStatus() : TooLarge(),
                  &closing->refused);
  if (!batch.requests.empty()) {
    batch.rows = RowsOf(batch.requests);
    batch.version = version;
    batch.closed = now;
    ++load.under_way;
    load.rows += batch.rows;
    if (loads_.size() > 1) {
      load.expected_end = executor.FreeAt(now) + executor.compute_times().LeastFor(batch.rows, now);
    }
    slot->watched.push_back({"", version->number, ++batches_, slot->device, batch.rows, now});
  }
  if (!queue_.empty()) Call(Next(now));
  return !batch.requests.empty() || !closing->refused.empty();
}

bool Batcher::AnyUsable() const {
  return std::any_of(slots_.begin(), slots_.end(), [](const auto& slot) { return slot->usable; });
}

int64_t Batcher::MostRows() const {
  int64_t most = -1;
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i]->usable) most = std::max(most, loads_[i].max_rows);
  }
  return most < 0 ? std::numeric_limits<int64_t>::max() : most;
}

absl::Status Batcher::TooLarge() const {
  const int64_t most = MostRows();
  std::string device;
  for (size_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i]->usable && loads_[i].max_rows == most) device = slots_[i]->device;
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("model '", model_->name(), "': expected at most ", most,
                   " rows in a request, which is what fits into the memory of ", device));
}

absl::Status Batcher::NotServed() const { return NotServed(model_->progress().last_error); }

absl::Status Batcher::NotServed(absl::string_view reason) const {
  return absl::UnavailableError(absl::StrCat("model '", model_->name(), "' is not being served",
                                             reason.empty() ? "" : ": ", reason));
}

void Batcher::PutBack(Refusals lost) {
  CheckHealth();
  Refusals left;
  {
    MutexLock lock(&mutex_);
    const bool elsewhere = !stopped_ && model_->Pin() != nullptr && AnyUsable();
    for (auto& [request, status] : lost) {
      if (++request.lost_batches > kMaxLostBatches || !elsewhere) {
        left.emplace_back(std::move(request), std::move(status));
      } else {
        queue_.PutBack(std::move(request));
      }
    }
    Call(Next(clock_->Now()));
  }
  Refuse(&left);
}

void Batcher::Refuse(Refusals* refused) {
  for (auto& [request, status] : *refused) sconce::Refuse(request, status, *clock_, model_.get());
}

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
