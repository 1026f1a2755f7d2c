#include "server/rpc/infer_call.h"

#include <grpcpp/support/slice.h>

#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/rpc/lookup.h"
#include "server/rpc/prepare.h"
#include "server/rpc/status.h"

namespace sconce {
namespace {

// A client's own timer ends its call a moment before the server's does.
constexpr std::chrono::milliseconds kDeadlineSlack{10};

struct Wire {
  std::vector<grpc::Slice> slices;
  std::vector<Piece> pieces;
};

absl::StatusOr<std::shared_ptr<Wire>> TakeSlices(grpc::ByteBuffer* buffer) {
  auto wire = std::make_shared<Wire>();
  if (!buffer->Dump(&wire->slices).ok()) {
    return absl::InvalidArgumentError("malformed ModelInferRequest: its bytes cannot be read");
  }
  buffer->Clear();
  for (const grpc::Slice& slice : wire->slices) {
    wire->pieces.emplace_back(reinterpret_cast<const std::byte*>(slice.begin()), slice.size());
  }
  return wire;
}

TimePoint DeadlineOf(const grpc::ServerContext& context, TimePoint now) {
  const auto deadline = context.deadline();
  if (deadline == decltype(deadline)::max()) return TimePoint::max();
  return now + std::chrono::duration_cast<Duration>(deadline - std::chrono::system_clock::now());
}

}  // namespace

void InferCall::Wait(const Server* server, grpc::ServerCompletionQueue* queue) {
  auto* call = new InferCall(server, queue);
  call->context_.AsyncNotifyWhenDone(&call->done_tag_);
  server->service->RequestModelInfer(&call->context_, &call->request_, &call->responder_, queue,
                                     queue, &call->request_tag_);
}

InferCall::InferCall(const Server* server, grpc::ServerCompletionQueue* queue)
    : server_(server), queue_(queue) {
  server_->calls->Add();
  MutexLock lock(&answering_->mutex);
  answering_->call = this;
}

InferCall::~InferCall() { server_->calls->Remove(); }

void InferCall::OnEvent(void* tag, bool ok) {
  const auto* of = static_cast<const Tag*>(tag);
  switch (of->event) {
    case Event::kRequest:
      if (ok) return of->call->OnRequest();
      // The server ends; a call that was not taken gets no further event.
      delete of->call;
      return;
    case Event::kDone:
      return of->call->OnDone();
    case Event::kFinish:
      return of->call->OnFinish();
  }
}

void InferCall::OnRequest() {
  Wait(server_, queue_);
  arrival_ = server_->clock->Now();
  deadline_ = DeadlineOf(context_, arrival_);
  absl::Status submitted = Submit();
  if (submitted.ok()) return;  // it may be answered by now
  if (model_ != nullptr) model_->statistics().RecordFailure(server_->clock->Now() - arrival_);
  Answer(answering_, std::move(submitted));
}

absl::Status InferCall::Submit() {
  // gRPC itself takes more where a load may bring weights.
  if (request_.Length() > server_->max_request_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("expected a request of at most ",
                                                     server_->max_request_bytes, " bytes, got ",
                                                     request_.Length()));
  }
  auto wire = TakeSlices(&request_);
  if (!wire.ok()) return wire.status();
  auto decoded = DecodeInfer((*wire)->pieces);
  if (!decoded.ok()) return decoded.status();

  auto model = FindModel(*server_->registry, decoded->header.model_name());
  if (!model.ok()) {
    server_->metrics->CountUnknownModel();
    return model.status();
  }
  model_ = *std::move(model);
  model_metrics_ = server_->metrics->ForModel(model_->name());
  model_metrics_->AddInFlight(1);

  const auto wanted = ParseVersion(decoded->header.model_version());
  if (!wanted.ok()) return wanted.status();
  auto version = PinVersion(*model_, *wanted);
  if (!version.ok()) return version.status();
  auto prepared = PrepareInfer(*std::move(decoded), *std::move(wire), *std::move(version),
                               *server_->regions, arrival_, deadline_);
  if (!prepared.ok()) return prepared.status();
  const std::shared_ptr<Batcher> batcher = server_->batchers->Find(model_->name());
  if (batcher == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("model '", model_->name(), "' is being added or removed; try again"));
  }

  answering_->format = std::move(prepared->format);
  prepared->request.wanted_version = *wanted;
  prepared->request.cancelled = cancelled_;
  prepared->request.done = [answering = answering_](absl::StatusOr<InferResponse> response) {
    Answer(answering, std::move(response));
  };
  batcher->Submit(std::move(prepared->request));
  return absl::OkStatus();
}

void InferCall::Answer(const std::shared_ptr<Answering>& answering,
                       absl::StatusOr<InferResponse> response) {
  absl::Status status = response.status();
  grpc::ByteBuffer message;
  if (status.ok()) {
    auto encoded = EncodeInfer(*response, answering->format);
    status = encoded.status();
    if (status.ok()) message = *std::move(encoded);
  }
  MutexLock lock(&answering->mutex);
  InferCall* const call = std::exchange(answering->call, nullptr);
  if (call == nullptr) return;
  call->Count(status.code());
  if (status.ok()) {
    call->responder_.Finish(message, grpc::Status::OK, &call->finish_tag_);
  } else {
    call->responder_.FinishWithError(ToGrpcStatus(status), &call->finish_tag_);
  }
}

void InferCall::OnDone() {
  done_ = true;
  if (context_.IsCancelled()) cancelled_->store(true, std::memory_order_relaxed);
  bool unanswered = false;
  {
    MutexLock lock(&answering_->mutex);
    unanswered = std::exchange(answering_->call, nullptr) != nullptr;
  }
  if (!unanswered) return DeleteIfOver();
  const bool late =
      deadline_ != TimePoint::max() && server_->clock->Now() + kDeadlineSlack >= deadline_;
  Count(late ? absl::StatusCode::kDeadlineExceeded : absl::StatusCode::kCancelled);
  delete this;
}

void InferCall::OnFinish() {
  finished_ = true;
  DeleteIfOver();
}

void InferCall::DeleteIfOver() {
  if (!done_ || !finished_) return;
  {
    // Whoever answered may be on its way out of Finish.
    MutexLock lock(&answering_->mutex);
  }
  delete this;
}

void InferCall::Count(absl::StatusCode code) {
  if (model_metrics_ == nullptr) return;
  model_metrics_->CountRequest(code);
  model_metrics_->AddInFlight(-1);
}

}  // namespace sconce
