#include "server/rpc/admin_service.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "server/base/printable.h"
#include "server/rpc/describe_status.h"
#include "server/rpc/status.h"

namespace sconce {
namespace {

absl::Status CheckModel(const std::string& model) {
  if (!model.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError("expected the name of a model, got none");
}

// A model, and a version of it or 0.
absl::Status CheckVersion(const std::string& model, int64_t version) {
  if (version < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model '", Printable(model),
        "': expected a version number from 1 on, or 0 to have it chosen, got ", version));
  }
  return CheckModel(model);
}

}  // namespace

template <typename Response>
void AdminService::TellModel(const std::string& name, Response* response) {
  const auto models = control_->Status(name);
  if (models.ok() && !models->empty()) *response->mutable_model() = DescribeStatus(models->front());
}

grpc::Status AdminService::Status(grpc::ServerContext*, const admin::v1::StatusRequest* request,
                                  admin::v1::StatusResponse* response) {
  const OpenCall call(calls_);
  auto models = control_->Status(request->model());
  if (!models.ok()) return ToGrpcStatus(models.status());
  std::sort(models->begin(), models->end(),
            [](const ModelStatus& a, const ModelStatus& b) { return a.model < b.model; });
  response->set_control(control_mode_);
  for (const ModelStatus& model : *models) *response->add_models() = DescribeStatus(model);
  return grpc::Status::OK;
}

grpc::Status AdminService::Rollback(grpc::ServerContext*, const admin::v1::RollbackRequest* request,
                                    admin::v1::RollbackResponse* response) {
  const OpenCall call(calls_);
  const absl::Status fine = CheckVersion(request->model(), request->version());
  if (!fine.ok()) return ToGrpcStatus(fine);
  const auto answers = control_->Rollback(request->model(), request->version());
  if (!answers.ok()) return ToGrpcStatus(answers.status());
  response->set_version(*answers);
  TellModel(request->model(), response);
  return grpc::Status::OK;
}

grpc::Status AdminService::Promote(grpc::ServerContext*, const admin::v1::PromoteRequest* request,
                                   admin::v1::PromoteResponse* response) {
  const OpenCall call(calls_);
  const absl::Status fine = CheckVersion(request->model(), request->version());
  if (!fine.ok()) return ToGrpcStatus(fine);
  const auto answers = control_->Promote(request->model(), request->version());
  if (!answers.ok()) return ToGrpcStatus(answers.status());
  response->set_version(*answers);
  TellModel(request->model(), response);
  return grpc::Status::OK;
}

grpc::Status AdminService::Reload(grpc::ServerContext*, const admin::v1::ReloadRequest* request,
                                  admin::v1::ReloadResponse* response) {
  const OpenCall call(calls_);
  absl::Status status = CheckModel(request->model());
  if (status.ok()) status = control_->Load(request->model(), {});
  if (!status.ok()) return ToGrpcStatus(status);
  TellModel(request->model(), response);
  return grpc::Status::OK;
}

grpc::Status AdminService::Pin(grpc::ServerContext*, const admin::v1::PinRequest* request,
                               admin::v1::PinResponse* response) {
  const OpenCall call(calls_);
  absl::Status status = CheckModel(request->model());
  if (status.ok()) status = control_->SetPinned(request->model(), true);
  if (!status.ok()) return ToGrpcStatus(status);
  TellModel(request->model(), response);
  return grpc::Status::OK;
}

grpc::Status AdminService::Unpin(grpc::ServerContext*, const admin::v1::UnpinRequest* request,
                                 admin::v1::UnpinResponse* response) {
  const OpenCall call(calls_);
  absl::Status status = CheckModel(request->model());
  if (status.ok()) status = control_->SetPinned(request->model(), false);
  if (!status.ok()) return ToGrpcStatus(status);
  TellModel(request->model(), response);
  return grpc::Status::OK;
}

}  // namespace sconce
