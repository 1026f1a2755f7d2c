#include "server/batching/batcher.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "server/base/thread.h"
#include "server/batching/request_check.h"

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
  // Whether a version that answers has a replica for it that works.
  bool usable = false;
  // Of the largest batch it takes; of versions that differ, the smallest such.
  int64_t batch_rows = 0;
  std::vector<WatchedBatch> watched;
  Thread thread;
};

// What an executor takes out of the queue in one turn.
struct Batcher::Closing {
  Batch batch;
  RefusedRequests refused;
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
  RefusedRequests left;
  {
    MutexLock lock(&mutex_);
    if (stopped_) return;
    Follow();
    while (slots_.size() < answering_.executors()) {
      slots_.push_back(std::make_unique<Slot>(slots_.size(), model_, metrics_, clock_));
      loads_.emplace_back();
      Slot* const slot = slots_.back().get();
      Fit(slot);
      slot->thread = Thread(absl::StrCat("exec-", model_->name()), ThreadPriority::kNormal,
                            [this, slot] { RunExecutor(slot); });
    }
    for (const auto& slot : slots_) slot->wake.Notify();
    if (answering_.versions().empty()) left = queue_.TakeAll(NotServed());
  }
  Refuse(&left);
  CheckHealth();
}

void Batcher::FollowChange() {
  serving_change_ = model_->serving_change();
  answering_.Set(model_->serving());
  for (const auto& slot : slots_) Fit(slot.get());
}

void Batcher::Fit(Slot* slot) {
  const size_t index = slot->executor.index();
  ExecutorLoad& load = loads_[index];
  slot->usable = false;
  slot->batch_rows = std::numeric_limits<int64_t>::max();
  for (const AnsweringVersion& answering : answering_.versions()) {
    if (!answering.RunsOn(index)) continue;
    slot->usable = true;
    slot->batch_rows = std::min(
        {slot->batch_rows, answering.version->max_batch_rows(), answering.places[index].max_rows});
  }
  load.looks_soon = load.looks_soon || !load.available;
  load.available = slot->usable && (load.available || load.under_way == 0);
}

void Batcher::CheckHealth() {
  std::vector<LostVersion> lost;
  std::vector<RefusedRequests> left;
  {
    MutexLock lock(&mutex_);
    if (stopped_) return;
    Follow();
    lost = answering_.CheckHealth();
    for (const LostVersion& version : lost) {
      left.push_back(queue_.TakeOf(*version.version, answering_, NotServed(version.reason)));
    }
    for (const auto& slot : slots_) {
      const bool before = slot->usable;
      Fit(slot.get());
      if (slot->usable != before) slot->wake.Notify();
    }
    Call(Next(clock_->Now()));
  }
  for (const LostVersion& version : lost) {
    if (on_devices_lost_) on_devices_lost_(model_, version.version, version.reason);
  }
  for (RefusedRequests& refused : left) Refuse(&refused);
}

absl::Status Batcher::Hold(Duration patience) {
  const TimePoint deadline = std::chrono::steady_clock::now() + patience;
  MutexLock lock(&mutex_);
  if (held_) {
    return absl::FailedPreconditionError(
        absl::StrCat("model '", model_->name(), "': its batches are held already"));
  }
  held_ = true;
  for (const auto& slot : slots_) slot->wake.Notify();
  bool in_time = true;
  while (!stopped_ && in_time && AnyUnderWay()) in_time = idle_.WaitUntil(&mutex_, deadline);
  if (!stopped_ && !AnyUnderWay()) return absl::OkStatus();
  held_ = false;
  for (const auto& slot : slots_) slot->wake.Notify();
  if (stopped_) {
    return absl::NotFoundError(absl::StrCat("model '", model_->name(), "' was removed"));
  }
  return absl::DeadlineExceededError(absl::StrCat("model '", model_->name(),
                                                  "': batches are still under way after ",
                                                  ToSeconds(patience), " s"));
}

void Batcher::Release() {
  MutexLock lock(&mutex_);
  held_ = false;
  for (const auto& slot : slots_) slot->wake.Notify();
}

bool Batcher::AnyUnderWay() const {
  return std::any_of(loads_.begin(), loads_.end(),
                     [](const ExecutorLoad& load) { return load.under_way > 0; });
}

void Batcher::Submit(InferRequest request) {
  SetShape(request.checked_against->signature, &request);
  const TimePoint arrival = request.arrival;
  absl::Status refused;
  {
    MutexLock lock(&mutex_);
    Follow();
    refused = Check(request);
    if (refused.ok()) {
      const bool limited = request.deadline != TimePoint::max();
      queue_.Add(std::move(request));
      if (held_) {
        if (limited && !slots_.empty()) slots_.front()->wake.Notify();
      } else {
        Call(Next(arrival));  // near enough to now, which takes longer to find out
      }
      return;
    }
  }
  sconce::Refuse(request, refused, *clock_, model_.get());
}

absl::Status Batcher::Check(const InferRequest& request) const {
  if (stopped_ || answering_.versions().empty()) return NotServed();
  const size_t index = answering_.IndexOf(request.wanted_version);
  if (index == answering_.versions().size()) return answering_.Gone(request.wanted_version);
  const int64_t most_rows = answering_.versions()[index].most_rows;
  if (most_rows == 0) return NotServed();
  if (request.checked.rows > most_rows) return answering_.TooLarge(index);
  return queue_.CheckRoom(request);
}

void Batcher::Stop() {
  RefusedRequests left;
  std::vector<Thread> threads;
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    answering_.Set({});
    left = queue_.TakeAll(NotServed());
    for (const auto& slot : slots_) {
      slot->wake.Notify();
      threads.push_back(std::move(slot->thread));
    }
    idle_.NotifyAll();
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
  if (held_ && executor.under_way() == 0) idle_.NotifyAll();
  for (;;) {
    Follow();
    NextStep next;
    if (!slot->usable || stopped_ || held_) {
      if (executor.under_way() > 0) return Turn::kFinish;
      if (held_ && !stopped_ && index == 0) {
        if (GiveUp(clock_->Now(), closing)) return Turn::kLaunch;
        next.until = queue_.FirstDeadline();
      }
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
        // Enough waits, but not of one version and shape.
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
  if (queue_.empty() || held_ || stopped_) return std::nullopt;
  const std::vector<AnsweringVersion>& versions = answering_.versions();
  // One executor, one version: what does not fit there fits nowhere.
  if (loads_.size() == 1 && versions.size() == 1) {
    return loads_[0].available ? std::optional<size_t>(0) : std::nullopt;
  }
  // By version, what fits the available ones.
  absl::InlinedVector<int64_t, 8> fits(versions.size(), 0);
  std::optional<size_t> any;
  for (size_t i = 0; i < loads_.size(); ++i) {
    if (!loads_[i].available) continue;
    if (!any.has_value()) any = i;
    for (size_t v = 0; v < versions.size(); ++v) {
      if (versions[v].RunsOn(i)) fits[v] = std::max(fits[v], versions[v].places[i].max_rows);
    }
  }
  if (!any.has_value()) return std::nullopt;
  for (const InferRequest& request : queue_.requests()) {
    const size_t index = answering_.IndexOf(request.wanted_version);
    const int64_t rows = request.checked.rows;
    // What can be run nowhere has to be refused by somebody.
    if (index == versions.size()) return any;
    if (versions[index].most_rows > 0 && rows > versions[index].most_rows) return any;
    if (rows <= fits[index]) return NextExecutor(loads_, versions[index].places, rows, now);
  }
  return std::nullopt;
}

void Batcher::Call(std::optional<size_t> executor) {
  if (!executor.has_value()) return;
  // One that has a batch under way wakes by itself when it is time to close the next.
  Slot& slot = *slots_[*executor];
  if (loads_[*executor].under_way == 0 || queue_.rows() >= slot.batch_rows) slot.wake.Notify();
}

BatchPlan Batcher::Plan(const Slot* slot, TimePoint now) {
  limits_.clear();
  for (const AnsweringVersion& answering : answering_.versions()) {
    BatchLimits& limits = limits_.emplace_back();
    limits.rows = answering.version->max_batch_rows();
    limits.replica_rows = 0;
    if (answering.most_rows > 0) limits.any_replica_rows = answering.most_rows;
    if (slot == nullptr || !answering.RunsOn(slot->executor.index())) continue;
    limits.replica_rows = answering.places[slot->executor.index()].max_rows;
    limits.compute_times = slot->executor.compute_times(answering.wanted);
  }
  const TimePoint start = slot == nullptr ? now : slot->executor.FreeAt(now);
  return PlanBatch(queue_.Snapshot(answering_), now, start, limits_);
}

bool Batcher::GiveUp(TimePoint now, Closing* closing) {
  if (queue_.empty() || answering_.versions().empty()) return false;
  queue_.Take(Plan(nullptr, now), *answering_.versions().front().version, answering_, now,
              &closing->refused);
  return !closing->refused.empty();
}

bool Batcher::Close(Slot* slot, TimePoint now, Closing* closing) {
  const Executor& executor = slot->executor;
  const size_t index = executor.index();
  const BatchPlan plan = Plan(slot, now);
  const int64_t rows = std::min(queue_.rows(), slot->batch_rows);
  if (DecideStep(executor.Situation(true, plan.full, rows, now), now).step !=
      ExecutorStep::kClose) {
    return false;
  }
  int64_t planned = 0;
  for (const size_t i : plan.take) planned += queue_.requests()[i].checked.rows;
  const AnsweringVersion& asked = answering_.versions()[plan.version];
  const AnsweringVersion& chosen =
      planned == 0 ? asked : answering_.Choose(plan.version, index, planned);
  Batch& batch = closing->batch;
  batch.requests = queue_.Take(plan, *chosen.version, answering_, now, &closing->refused);
  if (!batch.requests.empty()) {
    batch.rows = RowsOf(batch.requests);
    batch.version = chosen.version;
    batch.wanted = asked.wanted;
    batch.live = answering_.IsLive(*chosen.version);
    batch.trial = answering_.trial();
    batch.closed = now;
    ExecutorLoad& load = loads_[index];
    load.device = chosen.places[index].device;
    ++load.under_way;
    load.rows += batch.rows;
    if (loads_.size() > 1) {
      const ServiceTimes* const times = executor.compute_times(asked.wanted);
      load.expected_end = executor.FreeAt(now);
      if (times != nullptr) load.expected_end += times->LeastFor(batch.rows, now);
    }
    slot->watched.push_back({"", chosen.version->number, ++batches_,
                             chosen.version->replicas[index]->device(), batch.rows, now});
  }
  if (!queue_.empty()) Call(Next(now));
  return !batch.requests.empty() || !closing->refused.empty();
}

absl::Status Batcher::NotServed() const { return NotServed(model_->progress().last_error); }

absl::Status Batcher::NotServed(absl::string_view reason) const {
  return absl::UnavailableError(absl::StrCat("model '", model_->name(), "' is not being served",
                                             reason.empty() ? "" : ": ", reason));
}

void Batcher::PutBack(RefusedRequests lost) {
  CheckHealth();
  RefusedRequests left;
  {
    MutexLock lock(&mutex_);
    const std::vector<AnsweringVersion>& versions = answering_.versions();
    for (auto& [request, status] : lost) {
      const size_t index = answering_.IndexOf(request.wanted_version);
      const bool elsewhere = index < versions.size() && versions[index].most_rows > 0;
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

void Batcher::Refuse(RefusedRequests* refused) {
  for (auto& [request, status] : *refused) sconce::Refuse(request, status, *clock_, model_.get());
}

}  // namespace sconce
