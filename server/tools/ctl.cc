#include "server/tools/ctl.h"

#include <grpc/grpc.h>
#include <grpc/support/log.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/admin.grpc.pb.h"
#include "proto/open_inference.grpc.pb.h"
#include "server/base/file.h"
#include "server/base/printable.h"
#include "server/tools/ctl_text.h"

namespace sconce::tools {
namespace {

using admin::v1::ModelStatus;

// Messages of protobuf stay below 2 GiB.
constexpr int64_t kMostFileBytes = (int64_t{1} << 31) - (int64_t{4} << 20);

absl::StatusOr<std::string> ReadWhole(const std::string& path) {
  auto file = File::Open(path);
  if (!file.ok()) return file.status();
  if (file->size_bytes() > kMostFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat(Printable(path), ": expected at most ",
                                                   kMostFileBytes, " bytes, got ",
                                                   file->size_bytes()));
  }
  std::string bytes(static_cast<size_t>(file->size_bytes()), '\0');
  const absl::Status read =
      file->ReadAt(0, {reinterpret_cast<std::byte*>(bytes.data()), bytes.size()});
  if (!read.ok()) return read;
  return bytes;
}

class Caller {
 public:
  Caller(const CtlOptions& options, Console& console)
      : options_(options),
        console_(console),
        channel_(Connect(options.server)),
        admin_(admin::v1::Admin::NewStub(channel_)),
        inference_(inference::GRPCInferenceService::NewStub(channel_)),
        deadline_(std::chrono::system_clock::now() + options.timeout) {}

  absl::Status Run() {
    switch (options_.command) {
      case CtlOptions::Command::kStatus:
        return ShowStatus();
      case CtlOptions::Command::kRollback:
        return Change<admin::v1::RollbackRequest, admin::v1::RollbackResponse>(
            &admin::v1::Admin::Stub::Rollback);
      case CtlOptions::Command::kPromote:
        return Change<admin::v1::PromoteRequest, admin::v1::PromoteResponse>(
            &admin::v1::Admin::Stub::Promote);
      case CtlOptions::Command::kReload:
        return Change<admin::v1::ReloadRequest, admin::v1::ReloadResponse>(
            &admin::v1::Admin::Stub::Reload);
      case CtlOptions::Command::kPin:
        return Change<admin::v1::PinRequest, admin::v1::PinResponse>(&admin::v1::Admin::Stub::Pin);
      case CtlOptions::Command::kUnpin:
        return Change<admin::v1::UnpinRequest, admin::v1::UnpinResponse>(
            &admin::v1::Admin::Stub::Unpin);
      case CtlOptions::Command::kLoad:
        return Load();
      case CtlOptions::Command::kUnload:
        return Unload();
    }
    return absl::InternalError("no such command");
  }

 private:
  static std::shared_ptr<grpc::Channel> Connect(const std::string& server) {
    gpr_set_log_function([](gpr_log_func_args*) {});  // what matters is in the status of a call
    grpc::ChannelArguments arguments;
    // Servers are near; what the environment says of proxies is meant for the world outside.
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetMaxReceiveMessageSize(-1);
    return grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
  }

  template <typename Stub, typename Request, typename Response>
  absl::Status Call(Stub* stub,
                    grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response* response) {
    grpc::ClientContext context;
    context.set_deadline(deadline_);
    const grpc::Status status = (stub->*method)(&context, request, response);
    if (status.ok()) return absl::OkStatus();
    const bool connected = channel_->GetState(false) == GRPC_CHANNEL_READY;
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                        FailureText(options_.server, status, connected));
  }

  absl::Status AskStatus(admin::v1::StatusResponse* response) {
    admin::v1::StatusRequest request;
    request.set_model(options_.model);
    return Call(admin_.get(), &admin::v1::Admin::Stub::Status, request, response);
  }

  absl::Status ShowStatus() {
    admin::v1::StatusResponse response;
    absl::Status asked = AskStatus(&response);
    if (!asked.ok()) return asked;
    console_.Print(options_.json
                       ? StatusJson(response)
                       : StatusText(response, std::chrono::system_clock::now(), console_));
    return absl::OkStatus();
  }

  void Tell(const ModelStatus& model) {
    console_.Print(absl::StrCat(Printable(options_.model), ": ", StandingText(model), "\n"));
  }

  // Says how the model stands, if that can be had: what was asked for is done.
  void AskAndTell() {
    admin::v1::StatusResponse response;
    if (AskStatus(&response).ok() && response.models_size() == 1) Tell(response.models(0));
  }

  template <typename Request, typename Response>
  absl::Status Change(grpc::Status (admin::v1::Admin::Stub::*method)(grpc::ClientContext*,
                                                                     const Request&, Response*)) {
    Request request;
    request.set_model(options_.model);
    if constexpr (requires { request.set_version(0); }) request.set_version(options_.version);
    Response response;
    absl::Status called = Call(admin_.get(), method, request, &response);
    if (called.ok() && response.has_model()) Tell(response.model());
    return called;
  }

  absl::Status Load() {
    inference::RepositoryModelLoadRequest request;
    request.set_model_name(options_.model);
    if (!options_.config.empty()) {
      const size_t first = options_.config.find_first_not_of(" \t\r\n");
      auto config = first != std::string::npos && options_.config[first] == '{'
                        ? absl::StatusOr<std::string>(options_.config)
                        : ReadWhole(options_.config);
      if (!config.ok()) return config.status();
      (*request.mutable_parameters())["config"].set_string_param(*std::move(config));
    }
    if (!options_.weights.empty()) {
      auto weights = ReadWhole(options_.weights);
      if (!weights.ok()) return weights.status();
      const std::string name = options_.weights.substr(options_.weights.find_last_of('/') + 1);
      (*request.mutable_parameters())["file:" + name].set_bytes_param(*std::move(weights));
    }
    inference::RepositoryModelLoadResponse response;
    absl::Status called =
        Call(inference_.get(), &inference::GRPCInferenceService::Stub::RepositoryModelLoad, request,
             &response);
    if (called.ok()) AskAndTell();
    return called;
  }

  absl::Status Unload() {
    inference::RepositoryModelUnloadRequest request;
    request.set_model_name(options_.model);
    inference::RepositoryModelUnloadResponse response;
    absl::Status called =
        Call(inference_.get(), &inference::GRPCInferenceService::Stub::RepositoryModelUnload,
             request, &response);
    if (called.ok()) AskAndTell();
    return called;
  }

  const CtlOptions& options_;
  Console& console_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<admin::v1::Admin::Stub> admin_;
  const std::unique_ptr<inference::GRPCInferenceService::Stub> inference_;
  const std::chrono::system_clock::time_point deadline_;
};

}  // namespace

absl::StatusOr<int> Ctl(const CtlOptions& options, Console& console) {
  absl::Status done = Caller(options, console).Run();
  if (!done.ok()) return done;
  return 0;
}

}  // namespace sconce::tools
