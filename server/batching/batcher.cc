#include "server/batching/batcher.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/batching/batch_assembly.h"

namespace sconce {
namespace {

// Beside the number of requests: a queue of large ones must not take the machine's memory.
constexpr int64_t kMaxWaitingBytes = int64_t{1} << 30;

int64_t BytesOf(const InferRequest& request) {
  int64_t bytes = 0;
  for (const int64_t size : request.checked.size_bytes) bytes += size;
  return bytes;
}

absl::Status NotServed(const std::string& model) {
  return absl::UnavailableError(absl::StrCat("model '", model, "' is not being served"));
}

// Whether `version`, pinned when the batch was closed, may answer a request that was checked
// against the version that was live when it arrived.
absl::Status CheckAgainst(const ModelVersion& version, InferRequest* request) {
  if (request->wanted_version != 0 && request->wanted_version != version.number) {
    return absl::NotFoundError(absl::StrCat("model '", version.model, "' has no version ",
                                            request->wanted_version, ", it serves version ",
                                            version.number));
  }
  if (request->checked_against.get() == &version) return absl::OkStatus();
  const ModelVersion& before = *request->checked_against;
  if (version.signature == before.signature &&
      version.config.max_batch_size >= request->checked.rows) {
    return absl::OkStatus();
  }
  auto checked = CheckInputs(version.Label(), version.signature, version.config.max_batch_size,
                             request->declared);
  if (!checked.ok()) return checked.status();
  request->checked = *std::move(checked);
  if (std::string key = ShapeKey(*request); key != request->shape_key) {
    // The inputs changed their order: the batch this request was chosen for is not of its shape.
    request->shape_key = std::move(key);
    return absl::UnavailableError(
        absl::StrCat(version.Label(), ": the inputs changed while the request waited; try again"));
  }
  return absl::OkStatus();
}

}  // namespace

struct Batcher::Executor {
  size_t index = 0;
  Thread thread;
};

Batcher::Batcher(std::shared_ptr<Model> model, ModelMetrics* metrics, const Clock* clock)
    : model_(std::move(model)), metrics_(metrics), clock_(clock) {}

Batcher::~Batcher() { Stop(); }

void Batcher::OnVersionChanged() {
  const std::shared_ptr<const ModelVersion> version = model_->Pin();
  MutexLock lock(&mutex_);
  if (stopped_) return;
  wanted_executors_ = version == nullptr ? 1 : version->replicas.size();
  while (executors_.size() < wanted_executors_) {
    auto executor = std::make_unique<Executor>();
    executor->index = executors_.size();
    Executor* const raw = executor.get();
    executors_.push_back(std::move(executor));
    raw->thread = Thread(absl::StrCat("exec-", model_->name()), ThreadPriority::kNormal,
                         [this, raw] { RunExecutor(raw); });
  }
  resized_.NotifyAll();
  work_.NotifyAll();
}

void Batcher::Submit(InferRequest request) {
  request.shape_key = ShapeKey(request);
  absl::Status refused;
  {
    MutexLock lock(&mutex_);
    const int64_t bytes = BytesOf(request);
    const int64_t most = request.checked_against->config.max_queue_size;
    if (stopped_) {
      refused = NotServed(model_->name());
    } else if (static_cast<int64_t>(waiting_.size()) >= most ||
               waiting_bytes_ + bytes > std::max(kMaxWaitingBytes, bytes)) {
      refused = absl::UnavailableError(
          absl::StrCat("model '", model_->name(), "': the queue is full: ", waiting_.size(),
                       " requests of ", waiting_bytes_, " bytes wait, expected at most ", most,
                       " requests and ", kMaxWaitingBytes, " bytes"));
    } else {
      waiting_bytes_ += bytes;
      waiting_.push_back(std::move(request));
      metrics_->AddQueueDepth(1);
      work_.Notify();
      return;
    }
  }
  Refuse(request, std::move(refused));
}

void Batcher::Stop() {
  std::deque<InferRequest> left;
  std::vector<std::unique_ptr<Executor>> executors;
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    left.swap(waiting_);
    waiting_bytes_ = 0;
    executors.swap(executors_);
  }
  metrics_->AddQueueDepth(-static_cast<int64_t>(left.size()));
  work_.NotifyAll();
  resized_.NotifyAll();
  for (InferRequest& request : left) Refuse(request, NotServed(model_->name()));
  for (const auto& executor : executors) executor->thread.Join();
}

void Batcher::RunExecutor(Executor* executor) {
  for (;;) {
    std::vector<InferRequest> batch;
    std::vector<std::pair<InferRequest, absl::Status>> refused;
    std::shared_ptr<const ModelVersion> version;
    {
      MutexLock lock(&mutex_);
      for (;;) {
        if (stopped_) return;
        if (executor->index >= wanted_executors_) {
          resized_.Wait(&mutex_);
        } else if (waiting_.empty()) {
          work_.Wait(&mutex_);
        } else {
          break;
        }
      }
      version = FormBatch(&batch, &refused);
      // A version with fewer replicas may have been published an instant ago.
      if (version != nullptr && executor->index >= version->replicas.size()) {
        for (auto it = batch.rbegin(); it != batch.rend(); ++it) {
          waiting_bytes_ += BytesOf(*it);
          metrics_->AddQueueDepth(1);
          waiting_.push_front(std::move(*it));
        }
        batch.clear();
        wanted_executors_ = version->replicas.size();
        work_.Notify();
      }
    }
    for (auto& [request, status] : refused) Refuse(request, std::move(status));
    if (!batch.empty()) RunBatch(version, std::move(batch), executor);
  }
}

std::shared_ptr<const ModelVersion> Batcher::FormBatch(
    std::vector<InferRequest>* batch,
    std::vector<std::pair<InferRequest, absl::Status>>* refused) {
  const TimePoint now = clock_->Now();
  std::shared_ptr<const ModelVersion> version = model_->Pin();

  std::vector<WaitingRequest> snapshot;
  snapshot.reserve(waiting_.size());
  for (const InferRequest& request : waiting_) {
    snapshot.push_back({request.checked.rows, request.shape_key, request.deadline,
                        request.cancelled != nullptr &&
                            request.cancelled->load(std::memory_order_relaxed)});
  }
  BatchPlan plan;
  if (version != nullptr) {
    plan = PlanBatch(snapshot, now, version->config.max_batch_size, service_times_);
  }

  std::vector<bool> leaves(waiting_.size(), version == nullptr);
  for (const size_t i : plan.cancelled) {
    leaves[i] = true;
    refused->emplace_back(std::move(waiting_[i]), absl::CancelledError("the client went away"));
  }
  for (const size_t i : plan.late) {
    leaves[i] = true;
    const double waited = ToSeconds(now - waiting_[i].arrival);
    refused->emplace_back(
        std::move(waiting_[i]),
        absl::DeadlineExceededError(absl::StrCat("model '", model_->name(),
                                                 "': the deadline cannot be met any more after ",
                                                 waited, " s in the queue")));
  }
  for (const size_t i : plan.take) {
    leaves[i] = true;
    InferRequest& request = waiting_[i];
    absl::Status fits = CheckAgainst(*version, &request);
    if (fits.ok()) {
      batch->push_back(std::move(request));
    } else {
      refused->emplace_back(std::move(request), std::move(fits));
    }
  }
  if (version == nullptr) {
    for (InferRequest& request : waiting_) {
      refused->emplace_back(std::move(request), NotServed(model_->name()));
    }
  }

  for (const InferRequest& request : *batch) waiting_bytes_ -= BytesOf(request);
  for (const auto& [request, status] : *refused) waiting_bytes_ -= BytesOf(request);
  size_t kept = 0;
  for (size_t i = 0; i < leaves.size(); ++i) {
    if (leaves[i]) continue;
    if (kept != i) waiting_[kept] = std::move(waiting_[i]);
    ++kept;
  }
  metrics_->AddQueueDepth(static_cast<int64_t>(kept) - static_cast<int64_t>(waiting_.size()));
  waiting_.resize(kept);
  return version;
}

void Batcher::RunBatch(const std::shared_ptr<const ModelVersion>& version,
                       std::vector<InferRequest> batch, Executor* executor) {
  const TimePoint closed = clock_->Now();
  Replica& replica = *version->replicas[executor->index];
  int64_t rows = 0;
  for (const InferRequest& request : batch) rows += request.checked.rows;

  const size_t n_inputs = version->signature.inputs.size();
  std::vector<int64_t> size_bytes(n_inputs, 0);
  for (const InferRequest& request : batch) {
    for (size_t i = 0; i < n_inputs; ++i) size_bytes[i] += request.checked.size_bytes[i];
  }
  BatchInput input;
  auto staged = replica.Stage(size_bytes);
  absl::Status status = staged.status();
  if (status.ok()) {
    input.inputs = *std::move(staged);
    for (size_t i = 0; i < n_inputs; ++i) {
      input.inputs[i].dtype = version->signature.inputs[i].dtype;
      input.inputs[i].shape = BatchShape(batch.front(), i, rows);
      AssembleInput(batch, i, input.inputs[i].bytes);
    }
  }
  for (InferRequest& request : batch) request.wire.reset();  // the rows are in the batch now

  const TimePoint assembled = clock_->Now();
  std::vector<HostTensor> outputs;
  if (status.ok()) {
    auto ran = replica.Run(std::move(input));
    status = ran.status();
    if (status.ok()) {
      outputs = *std::move(ran);
      status = CheckOutputs(version->signature, rows, outputs);
    }
  }
  const TimePoint computed = clock_->Now();
  if (!status.ok()) {
    for (InferRequest& request : batch) {
      Refuse(request, absl::Status(status.code(),
                                   absl::StrCat(version->Label(), ": ", status.message())));
    }
    return;
  }

  std::vector<InferResponse> responses;
  std::vector<Duration> queued, total;
  int64_t first = 0;
  for (const InferRequest& request : batch) {
    responses.push_back({version, SliceRows(outputs, first, request.checked.rows)});
    first += request.checked.rows;
  }
  const TimePoint split = clock_->Now();
  for (const InferRequest& request : batch) {
    queued.push_back(closed - request.arrival);
    total.push_back(split - request.arrival);
  }
  // Before the answers go out, so that a client that has its answer finds it counted.
  model_->statistics().RecordBatch(
      {rows, assembled - closed, computed - assembled, split - computed, queued, total});
  {
    MutexLock lock(&mutex_);
    service_times_.Record(rows, split - closed, split);
  }
  metrics_->ObserveBatchRows(rows);
  for (size_t i = 0; i < batch.size(); ++i) {
    metrics_->ObservePhase(RequestPhase::kQueue, ToSeconds(queued[i]));
    metrics_->ObservePhase(RequestPhase::kAssemble, ToSeconds(assembled - closed));
    metrics_->ObservePhase(RequestPhase::kCompute, ToSeconds(computed - assembled));
    batch[i].done(std::move(responses[i]));
    const TimePoint answered = clock_->Now();
    metrics_->ObservePhase(RequestPhase::kRespond, ToSeconds(answered - computed));
    metrics_->ObservePhase(RequestPhase::kTotal, ToSeconds(answered - batch[i].arrival));
  }
}

void Batcher::Refuse(InferRequest& request, absl::Status status) {
  model_->statistics().RecordFailure(clock_->Now() - request.arrival);
  request.done(std::move(status));
}

std::shared_ptr<Batcher> Batchers::Find(const std::string& model) const {
  MutexLock lock(&mutex_);
  const auto it = batchers_.find(model);
  return it == batchers_.end() ? nullptr : it->second;
}

void Batchers::OnModelAdded(const std::shared_ptr<Model>& model) {
  auto batcher = std::make_shared<Batcher>(model, metrics_->ForModel(model->name()), clock_);
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
