#include "server/batching/executor.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/batching/observation.h"

namespace sconce {
namespace {

// Versions whose times are remembered; those that came and went are forgotten some time.
constexpr size_t kMostVersions = 64;

absl::StatusOr<std::unique_ptr<RunningBatch>> StageAndLaunch(Replica& replica, const Clock& clock,
                                                             Batch* batch) {
  batch->layout = LayOut(*batch->version, batch->requests, batch->rows);
  auto staged = replica.Stage(InputSizes(*batch->version, batch->requests, batch->layout));
  if (!staged.ok()) return staged.status();
  BatchInput input =
      AssembleBatch(*batch->version, batch->requests, batch->layout, *std::move(staged));
  batch->assembled = clock.Now();
  return replica.Launch(std::move(input));
}

}  // namespace

int64_t RowsOf(const std::vector<InferRequest>& requests) {
  int64_t rows = 0;
  for (const InferRequest& request : requests) rows += request.checked.rows;
  return rows;
}

void Refuse(InferRequest& request, const absl::Status& status, const Clock& clock, Model* model) {
  model->statistics().RecordFailure(clock.Now() - request.arrival);
  // Not a copy, which would share its text with the other requests': ThreadSanitizer cannot see how
  // absl counts who uses it.
  request.done(absl::Status(status.code(), status.message()));
}

Executor::Executor(size_t index, std::shared_ptr<Model> model, ModelMetrics* metrics,
                   const Clock* clock)
    : index_(index), model_(std::move(model)), metrics_(metrics), clock_(clock) {}

int64_t Executor::rows_under_way() const {
  int64_t rows = 0;
  for (const Batch& batch : under_way_) rows += batch.rows;
  return rows;
}

TimePoint Executor::FreeAt(TimePoint now) const {
  const TimePoint assembled = now + assemble_times_.LeastFor(1, now);
  return under_way_.empty() ? assembled : std::max(assembled, under_way_.back().expected_end);
}

const ServiceTimes* Executor::compute_times(int64_t wanted) const {
  const auto found = compute_times_.find(wanted);
  return found == compute_times_.end() ? nullptr : &found->second;
}

Duration Executor::LeastCompute(const Batch& batch, TimePoint now) const {
  const ServiceTimes* const times = compute_times(batch.wanted);
  return times == nullptr ? Duration::zero() : times->LeastFor(batch.rows, now);
}

ExecutorSituation Executor::Situation(bool work, bool full, int64_t rows, TimePoint now) const {
  ExecutorSituation situation{
      .under_way = under_way(), .depth = depth_, .work = work, .full = full};
  if (under_way_.empty()) return situation;
  situation.first_end = under_way_.front().expected_end;
  situation.last_end = under_way_.back().expected_end;
  situation.assembling = assemble_times_.LeastFor(rows, now);
  return situation;
}

void Executor::Launch(Batch batch) {
  LaunchOne(std::move(batch));
  SendAnswers();
  Settle();
}

void Executor::Finish() {
  FinishFirst();
  Settle();
}

// Nothing here is to be decided: what fills the depth must end before anything else can be done,
// and so must what is under way with a batch that wants to be alone.
void Executor::Settle() {
  for (;;) {
    const bool alone = !again_.empty() || (!under_way_.empty() && under_way_.back().alone);
    if (!under_way_.empty() && (alone || under_way() >= depth_)) {
      FinishFirst();
    } else if (!again_.empty()) {
      Batch next = std::move(again_.front());
      again_.pop_front();
      next.closed = clock_->Now();
      LaunchOne(std::move(next));
    } else {
      return;
    }
  }
}

void Executor::LaunchOne(Batch&& batch) {
  Replica& replica = ReplicaOf(batch);
  depth_ = replica.depth();
  numa_.MoveTo(replica.numa_node());
  auto running = StageAndLaunch(replica, *clock_, &batch);
  if (!running.ok()) return Fail(std::move(batch), running.status());
  batch.running = *std::move(running);
  if (depth_ > 1) {
    TimePoint start = batch.assembled;
    if (!under_way_.empty()) start = std::max(start, under_way_.back().expected_end);
    batch.expected_end = start + LeastCompute(batch, batch.assembled);
  }
  under_way_.push_back(std::move(batch));
}

void Executor::FinishFirst() {
  SendAnswers();
  Batch batch = std::move(under_way_.front());
  under_way_.pop_front();
  auto outputs = batch.running->Finish();
  batch.running.reset();
  batch.computed = clock_->Now();
  const TimePoint began = std::max(batch.assembled, std::exchange(last_computed_, batch.computed));
  TimePoint end = batch.computed;
  for (Batch& next : under_way_) {
    end += LeastCompute(next, batch.computed);
    next.expected_end = end;
  }
  absl::Status status = outputs.status();
  if (status.ok()) {
    status = CheckOutputs(batch.version->signature, batch.layout.filled_rows, *outputs,
                          batch.layout.open_sizes);
  }
  if (!status.ok()) return Fail(std::move(batch), status);
  assemble_times_.Record(batch.rows, batch.assembled - batch.closed, batch.computed);
  batch.compute = batch.computed - began;
  if (compute_times_.size() > kMostVersions) compute_times_.clear();
  compute_times_[batch.wanted].Record(batch.rows, batch.compute, batch.computed);

  Finished finished{std::move(batch), *std::move(outputs)};
  if (depth_ > 1 && under_way_.empty() && again_.empty()) {
    finished_ = std::move(finished);
  } else {
    Answer(finished);
  }
}

void Executor::SendAnswers() {
  if (!finished_.has_value()) return;
  Answer(*finished_);
  finished_.reset();
}

void Executor::Fail(Batch batch, const absl::Status& status) {
  absl::Status named(status.code(), absl::StrCat(batch.version->Label(), ": ", status.message()));
  if (absl::Status health = ReplicaOf(batch).health(); !health.ok()) {
    named = absl::UnavailableError(absl::StrCat(batch.version->Label(), ": ", health.message()));
    for (InferRequest& request : batch.requests) lost_.emplace_back(std::move(request), named);
    return;
  }
  const bool out_of_memory = absl::IsResourceExhausted(status);
  if (out_of_memory) metrics_->CountOutOfMemory();
  batch.alone = true;
  if (out_of_memory && !under_way_.empty()) {
    again_.push_back(std::move(batch));
    return;
  }
  // Either may be the fault of one of the requests.
  if ((out_of_memory || absl::IsInvalidArgument(status)) && batch.requests.size() > 1) {
    Batch half;
    half.version = batch.version;
    half.wanted = batch.wanted;
    half.live = batch.live;
    half.trial = batch.trial;
    half.alone = true;
    const auto middle = batch.requests.begin() + batch.requests.size() / 2;
    half.requests.assign(std::make_move_iterator(middle),
                         std::make_move_iterator(batch.requests.end()));
    batch.requests.erase(middle, batch.requests.end());
    half.rows = RowsOf(half.requests);
    batch.rows -= half.rows;
    again_.push_front(std::move(half));
    again_.push_front(std::move(batch));
    return;
  }
  if (batch.trial != nullptr && !absl::IsInvalidArgument(status)) {
    batch.trial->RecordFailures(batch.version->number, static_cast<int64_t>(batch.requests.size()));
  }
  for (InferRequest& request : batch.requests) Refuse(request, named, *clock_, model_.get());
}

void Executor::Answer(const Finished& finished) {
  const Batch& batch = finished.batch;
  const Duration assemble = batch.assembled - batch.closed;
  const Duration compute = batch.computed - batch.assembled;
  int64_t first = 0;
  for (const InferRequest& request : batch.requests) {
    responses_.push_back({batch.version, AnswerOf(batch.version->signature, batch.layout,
                                                  finished.outputs, first, request)});
    first += request.checked.rows;
  }
  const TimePoint split = clock_->Now();
  for (const InferRequest& request : batch.requests) {
    queued_.push_back(batch.closed - request.arrival);
    total_.push_back(split - request.arrival);
  }
  // Before the answers go out, so that a client that has its answer finds it counted.
  model_->statistics().RecordBatch(
      {batch.rows, assemble, compute, split - batch.computed, queued_, total_});
  metrics_->ObserveBatchRows(batch.rows);
  Record(finished, responses_);
  for (size_t i = 0; i < batch.requests.size(); ++i) {
    metrics_->ObservePhase(RequestPhase::kQueue, ToSeconds(queued_[i]));
    metrics_->ObservePhase(RequestPhase::kAssemble, ToSeconds(assemble));
    metrics_->ObservePhase(RequestPhase::kCompute, ToSeconds(compute));
    batch.requests[i].done(std::move(responses_[i]));
    const TimePoint answered = clock_->Now();
    metrics_->ObservePhase(RequestPhase::kRespond, ToSeconds(answered - batch.computed));
    metrics_->ObservePhase(RequestPhase::kTotal, ToSeconds(answered - batch.requests[i].arrival));
  }
  responses_.clear();
  queued_.clear();
  total_.clear();
}

void Executor::Record(const Finished& finished, absl::Span<const InferResponse> responses) {
  const Batch& batch = finished.batch;
  if (batch.trial != nullptr) {
    // Not of the batch's outputs: what was filled up may give anything.
    const bool non_finite =
        std::any_of(responses.begin(), responses.end(),
                    [](const InferResponse& response) { return AnyNonFinite(response.outputs); });
    batch.trial->RecordBatch(batch.version->number, static_cast<int64_t>(batch.requests.size()),
                             batch.rows, batch.compute, non_finite);
  }
  if (!batch.live) return;
  RecentRequests& recent = model_->recent_requests();
  for (size_t i = 0; i < responses.size(); ++i) {
    if (!recent.Wants(batch.computed)) return;
    auto copy = CopyForComparison(batch.requests[i], responses[i]);
    if (copy.has_value()) recent.Add(*std::move(copy));
  }
}

RefusedRequests Executor::TakeLost() { return std::exchange(lost_, {}); }

}  // namespace sconce
