// sconce_echo: answers ModelInfer with the bytes of the request, unread. What gRPC itself costs,
// for comparison: one completion queue, one thread, raw bytes.
//
// Prints the address it listens on; ends with SIGTERM.

#include <grpcpp/completion_queue.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/async_unary_call.h>
#include <grpcpp/support/byte_buffer.h>

#include <csignal>
#include <cstdio>
#include <memory>
#include <thread>

#include "proto/open_inference.grpc.pb.h"

namespace sconce::bench {
namespace {

using EchoService = inference::GRPCInferenceService::WithRawMethod_ModelInfer<
    inference::GRPCInferenceService::Service>;

// Owned by the queue: its address is the tag of its one pending event.
struct EchoCall {
  grpc::ServerContext context;
  grpc::ByteBuffer request;
  grpc::ServerAsyncResponseWriter<grpc::ByteBuffer> responder{&context};
  bool answered = false;
};

void Await(EchoService* service, grpc::ServerCompletionQueue* queue) {
  auto* call = new EchoCall;
  service->RequestModelInfer(&call->context, &call->request, &call->responder, queue, queue, call);
}

void Poll(EchoService* service, grpc::ServerCompletionQueue* queue) {
  void* tag = nullptr;
  bool ok = false;
  while (queue->Next(&tag, &ok)) {
    std::unique_ptr<EchoCall> call(static_cast<EchoCall*>(tag));
    if (!ok || call->answered) continue;
    Await(service, queue);
    call->answered = true;
    EchoCall* const open = call.release();
    open->responder.Finish(open->request, grpc::Status::OK, open);
  }
}

int Main() {
  // Blocked before any thread is made, so that sigwait alone gets it.
  sigset_t stop;
  sigemptyset(&stop);
  sigaddset(&stop, SIGTERM);
  sigaddset(&stop, SIGINT);
  pthread_sigmask(SIG_BLOCK, &stop, nullptr);

  EchoService service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(64 << 20);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::ServerCompletionQueue> queue = builder.AddCompletionQueue();
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    std::fprintf(stderr, "sconce_echo: cannot listen on 127.0.0.1\n");
    return 1;
  }
  std::printf("127.0.0.1:%d\n", port);
  std::fflush(stdout);
  // As many calls are awaited as may arrive between two turns of the loop.
  for (int i = 0; i < 128; ++i) Await(&service, queue.get());
  std::thread poller([&] { Poll(&service, queue.get()); });

  int signal = 0;
  sigwait(&stop, &signal);
  server->Shutdown(std::chrono::system_clock::now());
  queue->Shutdown();
  poller.join();
  return 0;
}

}  // namespace
}  // namespace sconce::bench

int main() { return sconce::bench::Main(); }
