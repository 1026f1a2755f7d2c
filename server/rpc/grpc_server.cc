#include "server/rpc/grpc_server.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/grpc.h>
#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/base/thread.h"
#include "server/rpc/admin_service.h"
#include "server/rpc/infer_call.h"
#include "server/rpc/inference_service.h"
#include "server/rpc/open_calls.h"
#include "server/rpc/status.h"

namespace sconce {
namespace {

// Calls that wait to be taken on each queue: a burst of this size needs no turn of the thread.
constexpr int kWaitingCalls = 32;
// Threads for all methods but ModelInfer. A load and a reflection stream hold one each.
constexpr int kMaxServiceThreads = 64;
// Calls one connection may have open; its client holds further ones back.
constexpr int kMaxCallsPerConnection = 4096;
// What a message that brings weights holds beside them.
constexpr int64_t kBesideWeights = int64_t{2} << 20;

// gRPC and protobuf write to stderr by themselves, what clients send included.
void RouteLibraryLogs() {
  gpr_set_log_function([](gpr_log_func_args* args) {
    const auto level = args->severity == GPR_LOG_SEVERITY_ERROR  ? spdlog::level::warn
                       : args->severity == GPR_LOG_SEVERITY_INFO ? spdlog::level::debug
                                                                 : spdlog::level::trace;
    spdlog::log(level, "grpc: {}", Printable(args->message, 1000));
  });
  google::protobuf::SetLogHandler(
      [](google::protobuf::LogLevel, const char*, int, const std::string& message) {
        spdlog::debug("protobuf: {}", Printable(message, 1000));
      });
}

// Answers methods that no service has.
class UnknownMethods final : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* context) override {
    class Refusal final : public grpc::ServerGenericBidiReactor {
     public:
      explicit Refusal(const std::string& method) {
        Finish(ToGrpcStatus(absl::UnimplementedError(
            absl::StrCat("method ", Printable(method), " is not supported by this server"))));
      }
      void OnDone() override { delete this; }
    };
    return new Refusal(context->method());
  }
};

}  // namespace

// Statuses of grpc.health.v1, kept from before there is a server to tell them.
class GrpcServer::Health {
 public:
  void Set(const std::string& name, bool serving) {
    MutexLock lock(&mutex_);
    SetLocked(name, serving);
  }

  // Asks the model under the lock, so that the last of several calls leaves what is true.
  void SetFrom(const Model& model) {
    MutexLock lock(&mutex_);
    SetLocked(model.name(), model.Pin() != nullptr);
  }

  void Attach(grpc::HealthCheckServiceInterface* service) {
    MutexLock lock(&mutex_);
    service_ = service;
    for (const auto& [name, serving] : statuses_) service_->SetServingStatus(name, serving);
  }

  // Says NOT_SERVING for everything and lets go of the server.
  void Detach() {
    MutexLock lock(&mutex_);
    if (service_ != nullptr) service_->Shutdown();
    service_ = nullptr;
  }

 private:
  void SetLocked(const std::string& name, bool serving) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    statuses_[name] = serving;
    if (service_ != nullptr) service_->SetServingStatus(name, serving);
  }

  Mutex mutex_;
  grpc::HealthCheckServiceInterface* service_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::map<std::string, bool> statuses_ ABSL_GUARDED_BY(mutex_) = {{"", false}};
};

// A server that listens, with its queues and their threads.
class GrpcServer::Running {
 public:
  Running(const Options& options, const Parts& parts, std::string version)
      : service_(parts.registry, parts.control, parts.regions, &calls_, std::move(version),
                 options.inline_weights_max_bytes),
        admin_(parts.control, &calls_, std::string(options.control_mode)),
        shared_{&service_,     parts.registry, parts.batchers, parts.regions,
                parts.metrics, parts.clock,    &calls_,        MaxRequestBytes(options)} {}

  // The port.
  absl::StatusOr<int> Start(const Options& options) {
    absl::Status free = CheckCanListen(options.address);
    if (!free.ok()) return free;
    grpc::EnableDefaultHealthCheckService(true);
    // Named here, because a linker drops a library that nothing refers to.
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();

    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(options.address.ToString(), grpc::InsecureServerCredentials(), &port);
    // With SO_REUSEPORT two servers share a port, and each gets half of the calls.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxCallsPerConnection);
    // The limit is that of every method; ModelInfer's own is looked at by its calls.
    builder.SetMaxReceiveMessageSize(static_cast<int>(std::max<int64_t>(
        options.max_request_bytes,
        options.inline_weights_max_bytes == 0
            ? 0
            : std::min(options.inline_weights_max_bytes, kMostInlineBytes) + kBesideWeights)));
    // gRPC decompresses a message as a whole before it looks at its size: a few megabytes of zeros
    // would take all memory. Compressed requests are refused with UNIMPLEMENTED.
    for (const auto algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP}) {
      builder.SetCompressionAlgorithmSupportStatus(algorithm, false);
    }
    builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
    grpc::ResourceQuota quota("sconce");
    builder.SetResourceQuota(quota.SetMaxThreads(kMaxServiceThreads));
    builder.RegisterService(&service_);
    builder.RegisterService(&admin_);
    builder.RegisterCallbackGenericService(&unknown_methods_);
    const int processors = static_cast<int>(std::thread::hardware_concurrency());
    const int threads = options.threads > 0 ? options.threads : std::clamp(processors, 1, 4);
    for (int i = 0; i < threads; ++i) queues_.push_back(builder.AddCompletionQueue());

    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port == 0) {
      StopQueues();
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", options.address.ToString(), ": gRPC did not start"));
    }
    for (size_t i = 0; i < queues_.size(); ++i) {
      grpc::ServerCompletionQueue* const queue = queues_[i].get();
      for (int k = 0; k < kWaitingCalls; ++k) InferCall::Wait(&shared_, queue);
      threads_.emplace_back(absl::StrCat("grpc-", i), ThreadPriority::kNormal,
                            [queue] { Drain(queue); });
    }
    return port;
  }

  grpc::HealthCheckServiceInterface* health() { return server_->GetHealthCheckService(); }

  void Shutdown(TimePoint deadline) {
    // Streams of health and reflection last as long as their clients like and would hold a
    // shutdown up to its deadline. No call is open only after gRPC has begun to shut down: until
    // then there are those that wait to be taken.
    Thread streams("grpc-shutdown", ThreadPriority::kNormal, [this, deadline] {
      if (calls_.AwaitNoneUntil(deadline)) grpc_server_cancel_all_calls(server_->c_server());
    });
    const auto left = deadline - std::chrono::steady_clock::now();
    server_->Shutdown(std::chrono::system_clock::now() +
                      std::chrono::duration_cast<std::chrono::system_clock::duration>(
                          std::clamp<Duration>(left, Duration::zero(), std::chrono::hours(24))));
    streams.Join();
    calls_.AwaitNone();
    StopQueues();
  }

 private:
  static size_t MaxRequestBytes(const Options& options) {
    return static_cast<size_t>(options.max_request_bytes);
  }

  static void Drain(grpc::CompletionQueue* queue) {
    void* tag = nullptr;
    bool ok = false;
    while (queue->Next(&tag, &ok)) InferCall::OnEvent(tag, ok);
  }

  // REQUIRES: no call waits or is open.
  void StopQueues() {
    for (const auto& queue : queues_) queue->Shutdown();
    threads_.clear();
    // Empty where a thread has been at it; a queue must be drained before it is destroyed.
    for (const auto& queue : queues_) Drain(queue.get());
  }

  OpenCalls calls_;
  InferenceService service_;
  AdminService admin_;
  UnknownMethods unknown_methods_;
  const InferCall::Server shared_;
  std::vector<std::unique_ptr<grpc::ServerCompletionQueue>> queues_;
  std::unique_ptr<grpc::Server> server_;
  std::vector<Thread> threads_;
};

GrpcServer::GrpcServer(Options options, Parts parts, std::string version)
    : options_(std::move(options)),
      parts_(parts),
      version_(std::move(version)),
      health_(std::make_unique<Health>()) {}

GrpcServer::~GrpcServer() { Shutdown(std::chrono::steady_clock::now()); }

absl::StatusOr<Address> GrpcServer::Start() {
  MutexLock lock(&mutex_);
  if (started_ || stopped_) {
    return absl::FailedPreconditionError("the gRPC server was started or shut down before");
  }
  RouteLibraryLogs();
  auto running = std::make_unique<Running>(options_, parts_, version_);
  const absl::StatusOr<int> port = running->Start(options_);
  if (!port.ok()) return port.status();
  health_->Attach(running->health());
  running_ = std::move(running);
  started_ = true;
  return Address{options_.address.host, static_cast<uint16_t>(*port)};
}

void GrpcServer::Shutdown(TimePoint deadline) {
  std::unique_ptr<Running> running;
  {
    MutexLock lock(&mutex_);
    if (shutting_down_) {
      while (!stopped_) stopped_changed_.Wait(&mutex_);
      return;
    }
    shutting_down_ = true;
    if (!started_) {
      stopped_ = true;
      return;
    }
    running = std::move(running_);
  }
  health_->Detach();
  running->Shutdown(deadline);
  running.reset();
  MutexLock lock(&mutex_);
  stopped_ = true;
  stopped_changed_.NotifyAll();
}

void GrpcServer::OnModelAdded(const std::shared_ptr<Model>& model) { health_->SetFrom(*model); }

void GrpcServer::OnModelRemoved(const std::shared_ptr<Model>& model) {
  health_->Set(model->name(), false);
}

void GrpcServer::OnModelChanged(const std::shared_ptr<Model>& model) { health_->SetFrom(*model); }

void GrpcServer::OnReadyChanged(bool ready) { health_->Set("", ready); }

}  // namespace sconce
