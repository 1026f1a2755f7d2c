// InferCall: one ModelInfer call, from waiting for it to its answer. The request arrives as raw
// bytes on a completion queue; the answer is sent by whoever calls the batching's `done`.
//
//   waiting --request--> open --answer--> finishing --finish, done--> gone
//                          '--done: the client left, or the server ends--> gone
//
// Owned by itself: Wait makes one, and each that is taken makes the next. One thread polls each
// completion queue, so that the events of a call come one after another; only the answer may come
// from another thread, at any time, also after the call is gone.

#ifndef SCONCE_SERVER_RPC_INFER_CALL_H_
#define SCONCE_SERVER_RPC_INFER_CALL_H_

#include <grpcpp/completion_queue.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/async_unary_call.h>
#include <grpcpp/support/byte_buffer.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "server/base/clock.h"
#include "server/base/metrics.h"
#include "server/base/mutex.h"
#include "server/batching/batchers.h"
#include "server/rpc/decode.h"
#include "server/rpc/encode.h"
#include "server/rpc/inference_service.h"
#include "server/rpc/open_calls.h"
#include "server/rpc/shared_memory_regions.h"

namespace sconce {

class InferCall {
 public:
  // What every call needs; outlives them all.
  struct Server {
    InferenceService* service;
    const Registry* registry;
    const Batchers* batchers;
    const SharedMemoryRegions* regions;
    Metrics* metrics;
    const Clock* clock;
    OpenCalls* calls;
    // Of one request.
    size_t max_request_bytes;
  };

  // Waits for one call on `queue`.
  static void Wait(const Server* server, grpc::ServerCompletionQueue* queue);

  // Passes an event of the queue to the call it belongs to.
  static void OnEvent(void* tag, bool ok);

  InferCall(const InferCall&) = delete;
  InferCall& operator=(const InferCall&) = delete;

 private:
  enum class Event { kRequest, kDone, kFinish };
  struct Tag {
    InferCall* call;
    Event event;
  };
  // The way back from the batching, which may outlast the call.
  struct Answering {
    Mutex mutex;
    InferCall* call ABSL_GUARDED_BY(mutex) = nullptr;  // null once the call is answered or gone
    AnswerFormat format;                               // constant once the request is submitted
  };

  InferCall(const Server* server, grpc::ServerCompletionQueue* queue);
  ~InferCall();

  void OnRequest();
  void OnDone();
  void OnFinish();

  // Hands the request to its model's batcher, or says why not.
  absl::Status Submit();
  static void Answer(const std::shared_ptr<Answering>& answering,
                     absl::StatusOr<InferResponse> response);
  // Once per call, when it is known how it ends.
  void Count(absl::StatusCode code);
  void DeleteIfOver();

  const Server* const server_;
  grpc::ServerCompletionQueue* const queue_;
  Tag request_tag_{this, Event::kRequest};
  Tag done_tag_{this, Event::kDone};
  Tag finish_tag_{this, Event::kFinish};

  grpc::ServerContext context_;
  grpc::ByteBuffer request_;
  grpc::ServerAsyncResponseWriter<grpc::ByteBuffer> responder_{&context_};

  TimePoint arrival_{};
  TimePoint deadline_ = TimePoint::max();
  // Null while no known model has been named.
  std::shared_ptr<Model> model_;
  ModelMetrics* model_metrics_ = nullptr;
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
  const std::shared_ptr<Answering> answering_ = std::make_shared<Answering>();

  // Of the polling thread.
  bool done_ = false;
  bool finished_ = false;
};

}  // namespace sconce

#endif  // SCONCE_SERVER_RPC_INFER_CALL_H_
